//! Pictures that are objects of their own.

use sanafarm_proto::v1::Image;
use sanafarm_storage::Output;
use sanafarm_worker::picture;
use sha2::{Digest, Sha256};

use super::problem::{Lost, Problem, What};
use super::recipe::differences;
use crate::error::Error;
use crate::output::storage_error;
use crate::submission::blocking;

/// A file that is so much larger than it should be is not read.
const READ_BEYOND: u64 = 64 << 20;

/// How closely pictures are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether they are there and as large as they should be.
    Quick,
    /// Their bytes, and the recipe in their head.
    Bytes,
    /// Their pixels too.
    Pixels,
}

/// What was found of an image or a tar.
#[derive(Debug, Default)]
pub struct Checked {
    /// Pictures that were looked at.
    pub pictures: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Looks at the picture of an image, and for its thumbnail.
pub async fn check(output: &Output, depth: Depth, image: Image) -> Result<Checked, Error> {
    let mut checked = match depth {
        Depth::Quick => sized(output, &image).await?,
        Depth::Bytes | Depth::Pixels => read(output, depth, &image).await?,
    };
    checked.problems.extend(thumbnail(output, &image).await?.map(|problem| {
        // Its image is rendered again for its sake; the worker finds the picture that stands there.
        let (index, object) = (image.index, image.thumbnail.clone());
        Problem { lost: Some(Lost { index, object, sha256: String::new() }), ..problem }
    }));
    Ok(checked)
}

/// Whether the thumbnail of an image is there, when it has one.
pub async fn thumbnail(output: &Output, image: &Image) -> Result<Option<Problem>, Error> {
    if image.thumbnail.is_empty() {
        return Ok(None);
    }
    let found = at(&image.thumbnail, output.size(&image.thumbnail).await)?;
    let missing = || Problem {
        index: Some(image.index),
        ..Problem::about(image.thumbnail.clone(), What::Missing, "the thumbnail is not there")
    };
    Ok(found.ok().flatten().is_none().then(missing))
}

async fn sized(output: &Output, image: &Image) -> Result<Checked, Error> {
    let problem = match at(&image.object, output.size(&image.object).await)? {
        Ok(Some(bytes)) if bytes == image.bytes => None,
        Ok(Some(bytes)) => Some(wrong_size(image, bytes)),
        Ok(None) => Some(missing(image)),
        Err(odd) => Some(Problem::of(image, What::Unreadable, odd)),
    };
    Ok(Checked { pictures: 1, bytes: 0, problems: problem.into_iter().collect() })
}

async fn read(output: &Output, depth: Depth, image: &Image) -> Result<Checked, Error> {
    let with = |bytes, problem: Option<Problem>| {
        Ok(Checked { pictures: 1, bytes, problems: problem.into_iter().collect() })
    };
    let mut reading = match at(&image.object, output.read(&image.object).await)? {
        Ok(Some(reading)) => reading,
        Ok(None) => return with(0, Some(missing(image))),
        Err(odd) => return with(0, Some(Problem::of(image, What::Unreadable, odd))),
    };
    if reading.bytes() > image.bytes.saturating_add(READ_BEYOND) {
        return with(0, Some(wrong_size(image, reading.bytes())));
    }
    let mut file = Vec::with_capacity(reading.bytes() as usize);
    let failed = |error| storage_error(format!("read {}", image.object), &error);
    while let Some(chunk) = reading.next().await.map_err(failed)? {
        file.extend_from_slice(&chunk);
    }
    let (bytes, image) = (file.len() as u64, image.clone());
    let problem = blocking(move || {
        let found = judge(&file, &image, depth);
        found.map(|(what, detail)| Problem::of(&image, what, detail))
    });
    with(bytes, problem.await?)
}

/// What is wrong with a file that should be the picture of an image.
pub fn judge(file: &[u8], image: &Image, depth: Depth) -> Option<(What, String)> {
    let read = match depth {
        Depth::Quick | Depth::Bytes => picture::recipe(file),
        Depth::Pixels => picture::read(file),
    };
    let sha256 = hex::encode(Sha256::digest(file));
    let differ = read.as_ref().map(|provenance| differences(provenance, image)).unwrap_or_default();
    if sha256 == image.sha256 {
        return match read {
            Err(error) => Some((What::Unreadable, error.to_string())),
            Ok(_) if differ.is_empty() => None,
            Ok(_) => Some((What::Recipe, format!("its recipe has another {}", differ.join(", ")))),
        };
    }
    if !differ.is_empty() {
        return Some((What::Recipe, format!("it is another picture, with another {}", differ.join(", "))));
    }
    let state = match read {
        Ok(_) => String::new(),
        Err(error) => format!("; {error}"),
    };
    if file.len() as u64 != image.bytes {
        return Some((What::Size, format!("{}{state}", sizes(file.len() as u64, image.bytes))));
    }
    Some((What::Sha256, format!("its sha256 is {sha256}, not {}{state}", image.sha256)))
}

fn missing(image: &Image) -> Problem {
    Problem::of(image, What::Missing, format!("there is no such object, of {} bytes", image.bytes))
}

fn wrong_size(image: &Image, bytes: u64) -> Problem {
    Problem::of(image, What::Size, sizes(bytes, image.bytes))
}

/// A size that is not what it should be.
pub fn sizes(found: u64, wanted: u64) -> String {
    format!("{found} bytes instead of {wanted}")
}

/// A place that is out of reach ends the check; something odd at one name, such as a folder, is a finding.
pub fn at<T>(name: &str, asked: Result<T, sanafarm_storage::Error>) -> Result<Result<T, String>, Error> {
    match asked {
        Ok(found) => Ok(Ok(found)),
        Err(error @ sanafarm_storage::Error::Invalid(_)) => Ok(Err(error.to_string())),
        Err(error) => Err(storage_error(format!("look at {name}"), &error)),
    }
}

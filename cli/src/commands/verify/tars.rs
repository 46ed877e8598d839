//! Tars of the layout webdataset: each is read once, as a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};

use parquet::errors::ParquetError;
use sanafarm_net::Channel;
use sanafarm_proto::v1::cell::Value as CellValue;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::query_response::Part;
use sanafarm_proto::v1::{Image, ImageState, ListImagesRequest, QueryRequest, Row};
use sanafarm_storage::Output;
use serde_json::Value;

use super::pictures::{Checked, Depth, at, judge, sizes, thumbnail};
use super::problem::{Lost, Problem, What};
use super::recipe::json_differences;
use super::rows::Rows;
use super::tables::table;
use crate::error::Error;
use crate::output::{Incoming, storage_error};
use crate::submission::blocking;

/// Larger texts in a tar are none of ours.
const LARGEST_TEXT: u64 = 16 << 20;

/// A tar as the history knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tar {
    /// Below the output.
    pub name: String,
    images: u64,
    bytes: u64,
    sha256: String,
    first: u64,
    last: u64,
}

impl Tar {
    /// Whether an entry of the index says the same.
    pub fn is_told_by(&self, entry: &Value) -> bool {
        entry["nsamples"].as_u64() == Some(self.images)
            && entry["filesize"].as_u64() == Some(self.bytes)
            && entry["sha256"].as_str() == Some(&self.sha256)
    }
}

/// The tars of a job that have their names, in order of them.
pub async fn list(channel: &Channel, job: &str) -> Result<Vec<Tar>, Error> {
    let failed = |status: tonic::Status| Error::call(format!("list the tars of job {job}"), &status);
    let sql = format!(
        "SELECT archive, images, bytes, sha256, first_index, last_index FROM audit_archives \
         WHERE job_id = '{}' AND archive IS NOT NULL ORDER BY number",
        job.replace('\'', "''")
    );
    let mut client = HistoryServiceClient::new(channel.clone());
    let mut answers = client.query(QueryRequest { sql }).await.map_err(failed)?.into_inner();
    let mut tars = Vec::new();
    while let Some(answer) = answers.message().await.map_err(failed)? {
        let Some(Part::Rows(rows)) = answer.part else { continue };
        for row in rows.rows {
            let odd = || Error::failure(format!("list the tars of job {job}")).because("an odd answer");
            tars.push(tar(row).ok_or_else(odd)?);
        }
    }
    Ok(tars)
}

fn tar(row: Row) -> Option<Tar> {
    let mut cells = row.cells.into_iter().map(|cell| cell.value);
    let mut next = || cells.next().flatten();
    let text = |cell| if let Some(CellValue::Text(text)) = cell { Some(text) } else { None };
    let number =
        |cell| if let Some(CellValue::Integer(number)) = cell { u64::try_from(number).ok() } else { None };
    Some(Tar {
        name: text(next())?,
        images: number(next())?,
        bytes: number(next())?,
        sha256: text(next())?,
        first: number(next())?,
        last: number(next())?,
    })
}

/// Reads a tar and compares it, member by member, with the images that it should hold.
pub async fn check(
    output: &Output,
    mut client: JobServiceClient<Channel>,
    depth: Depth,
    job: &str,
    tar: Tar,
) -> Result<Checked, Error> {
    let images = held(&mut client, depth, job, &tar).await?;
    let mut checked = Checked { pictures: images.len() as u64, ..Checked::default() };
    if checked.pictures != tar.images {
        let detail = format!("the history has {} of its {} pictures", checked.pictures, tar.images);
        checked.problems.push(Problem::about(tar.name.clone(), What::Rows, detail));
    }
    for image in &images {
        checked.problems.extend(thumbnail(output, image).await?);
    }
    checked.problems.extend(part(output, depth, &tar, &images).await?);
    // A tar is rendered again as a whole, whatever is wrong in it.
    let lost = images.first().map(|image| Lost {
        index: image.index,
        object: tar.name.clone(),
        sha256: tar.sha256.clone(),
    });
    let (bytes, problems) = match depth {
        Depth::Quick => (0, sized(output, &tar).await?.into_iter().collect()),
        Depth::Bytes | Depth::Pixels => read_through(output, depth, tar, images).await?,
    };
    checked.bytes = bytes;
    checked.problems.extend(problems.into_iter().map(|problem| Problem { lost: lost.clone(), ..problem }));
    Ok(checked)
}

/// What is wrong with the part of the manifest that tells of a tar.
async fn part(output: &Output, depth: Depth, tar: &Tar, images: &[Image]) -> Result<Option<Problem>, Error> {
    let name = format!("manifests/{}.parquet", tar.name.strip_suffix(".tar").unwrap_or(&tar.name));
    if depth == Depth::Quick {
        let found = at(&name, output.size(&name).await)?;
        let missing = || Problem::about(name.clone(), What::Missing, "there is no such object");
        return Ok(found.ok().flatten().is_none().then(missing));
    }
    let file = match table(output, &name).await? {
        Ok(file) => file,
        Err(problem) => return Ok(Some(problem)),
    };
    let images = images.to_vec();
    Ok(match blocking(move || odd_row(file, &images)).await? {
        Ok(odd) => odd.map(|odd| Problem::about(name, What::Rows, odd)),
        Err(error) => Some(Problem::about(name, What::Unreadable, error.to_string())),
    })
}

/// The first in which a part of the manifest differs from the images of its tar.
fn odd_row(part: File, images: &[Image]) -> Result<Option<String>, ParquetError> {
    let mut images = images.iter();
    for row in Rows::open(part)? {
        let row = row?;
        let Some(image) = images.next() else {
            return Ok(Some(format!("it has a row of image {}, which is not in its tar", row.index)));
        };
        if let Some(field) = row.difference(image) {
            return Ok(Some(format!("its row of image {} has another {field}", image.index)));
        }
    }
    Ok(images.next().map(|image| format!("it has no row of image {}", image.index)))
}

async fn sized(output: &Output, tar: &Tar) -> Result<Option<Problem>, Error> {
    Ok(match at(&tar.name, output.size(&tar.name).await)? {
        Ok(Some(bytes)) if bytes == tar.bytes => None,
        Ok(Some(bytes)) => Some(Problem::about(tar.name.clone(), What::Size, sizes(bytes, tar.bytes))),
        Ok(None) => Some(missing(tar)),
        Err(odd) => Some(Problem::about(tar.name.clone(), What::Unreadable, odd)),
    })
}

fn missing(tar: &Tar) -> Problem {
    let detail = format!("there is no such tar, of {} pictures", tar.images);
    Problem::about(tar.name.clone(), What::Missing, detail)
}

async fn read_through(
    output: &Output,
    depth: Depth,
    tar: Tar,
    images: Vec<Image>,
) -> Result<(u64, Vec<Problem>), Error> {
    let reading = match at(&tar.name, output.read(&tar.name).await)? {
        Ok(Some(reading)) => reading,
        Ok(None) => return Ok((0, vec![missing(&tar)])),
        Err(odd) => return Ok((0, vec![Problem::about(tar.name, What::Unreadable, odd)])),
    };
    let stream = Incoming::new(reading);
    let read = blocking(move || read(stream, &tar, images, depth)).await?;
    read.map_err(|error| storage_error("read a tar", &error))
}

/// The images whose pictures are in a tar. Others may lie between them.
async fn held(
    client: &mut JobServiceClient<Channel>,
    depth: Depth,
    job: &str,
    tar: &Tar,
) -> Result<Vec<Image>, Error> {
    let failed = |status: tonic::Status| Error::call(format!("list the images in {}", tar.name), &status);
    let request = ListImagesRequest {
        job_id: job.to_owned(),
        states: vec![ImageState::Done.into()],
        from: tar.first,
        limit: tar.last - tar.first + 1,
        with_recipe: depth != Depth::Quick,
    };
    let mut listed = client.list_images(request).await.map_err(failed)?.into_inner();
    let mut images = Vec::new();
    while let Some(image) = listed.message().await.map_err(failed)? {
        if image.index > tar.last {
            break;
        }
        if image.archive == tar.name {
            images.push(image);
        }
    }
    Ok(images)
}

/// Bytes that were read, and what is wrong; an error when the output cannot be read any further.
fn read(
    mut stream: Incoming,
    tar: &Tar,
    images: Vec<Image>,
    depth: Depth,
) -> Result<(u64, Vec<Problem>), sanafarm_storage::Error> {
    let mut members = Members::new(&tar.name, images, depth);
    let walked = members.walk(&mut stream).and_then(|()| io::copy(&mut stream, &mut io::sink()));
    let (bytes, sha256) = stream.finish()?;
    let mut problems = Vec::new();
    if let Err(error) = walked {
        let detail = format!("it is no whole tar: {error}");
        problems.push(Problem::about(tar.name.clone(), What::Unreadable, detail));
    } else if bytes != tar.bytes {
        problems.push(Problem::about(tar.name.clone(), What::Size, sizes(bytes, tar.bytes)));
    } else if sha256 != tar.sha256 {
        let detail = format!("its sha256 is {sha256}, not {}", tar.sha256);
        problems.push(Problem::about(tar.name.clone(), What::Sha256, detail));
    }
    problems.extend(members.finish());
    Ok((bytes, problems))
}

/// What the members of a tar should be, and what was seen of them.
struct Members<'a> {
    tar: &'a str,
    depth: Depth,
    /// By the names of their samples.
    wanted: BTreeMap<String, Image>,
    /// The sample at hand, and the endings that were seen of it.
    sample: String,
    endings: BTreeSet<String>,
    /// Samples that were left behind.
    over: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Members<'a> {
    fn new(tar: &'a str, images: Vec<Image>, depth: Depth) -> Self {
        let wanted = images.into_iter().map(|image| (parts(&image.object).0.to_owned(), image)).collect();
        Self {
            tar,
            depth,
            wanted,
            sample: String::new(),
            endings: BTreeSet::new(),
            over: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn walk(&mut self, stream: &mut Incoming) -> io::Result<()> {
        let mut archive = tar::Archive::new(stream);
        for member in archive.entries()? {
            let mut member = member?;
            let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
            let size = member.size();
            self.member(&name, size, &mut member)?;
        }
        Ok(())
    }

    fn member(&mut self, name: &str, size: u64, content: &mut impl Read) -> io::Result<()> {
        let (sample, ending) = parts(name);
        if sample != self.sample {
            self.leave();
            sample.clone_into(&mut self.sample);
            if self.over.contains(sample) {
                self.note(name, What::Extra, "it does not follow the rest of its sample", None);
            }
        }
        let Some(image) = self.wanted.get(sample).cloned() else {
            self.note(name, What::Extra, "it belongs to no image of this tar", None);
            return Ok(());
        };
        let index = Some(image.index);
        let is_picture = name == image.object;
        if !is_picture && !matches!(ending, "json" | "txt") {
            self.note(name, What::Extra, "it is no picture, .json or .txt of an image", index);
            return Ok(());
        }
        if !self.endings.insert(ending.to_owned()) {
            self.note(name, What::Extra, "it is there twice", index);
            return Ok(());
        }
        let limit = if is_picture { image.bytes } else { LARGEST_TEXT };
        if size > limit {
            self.note(name, What::Size, sizes(size, limit), index);
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(size as usize);
        content.read_to_end(&mut bytes)?;
        let found = match ending {
            _ if is_picture => judge(&bytes, &image, self.depth),
            "json" => wrong_facts(&bytes, &image),
            _ => (bytes != image.prompt.as_bytes())
                .then(|| (What::Recipe, "it is not the prompt of the image".to_owned())),
        };
        if let Some((what, detail)) = found {
            self.note(name, what, detail, index);
        }
        Ok(())
    }

    /// The sample at hand is over: it must have been whole.
    fn leave(&mut self) {
        let sample = std::mem::take(&mut self.sample);
        let endings = std::mem::take(&mut self.endings);
        if let Some(image) = self.wanted.get(&sample).cloned()
            && self.over.insert(sample.clone())
        {
            let picture = parts(&image.object).1;
            for ending in [picture, "json", "txt"] {
                if !endings.contains(ending) {
                    let name = format!("{sample}.{ending}");
                    self.note(&name, What::Missing, "its sample lacks it", Some(image.index));
                }
            }
        }
    }

    /// What is wrong, once all members were seen.
    fn finish(mut self) -> Vec<Problem> {
        self.leave();
        let absent: Vec<Image> = self
            .wanted
            .iter()
            .filter(|(sample, _)| !self.over.contains(*sample))
            .map(|(_, image)| image.clone())
            .collect();
        for image in absent {
            self.note(&image.object, What::Missing, "it is not in the tar", Some(image.index));
        }
        self.problems
    }

    fn note(&mut self, name: &str, what: What, detail: impl Into<String>, index: Option<u64>) {
        let object = format!("{}/{name}", self.tar);
        self.problems.push(Problem { index, ..Problem::about(object, what, detail) });
    }
}

/// The name of a sample and the ending of its member, as the library webdataset parts them: at the first dot.
fn parts(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

/// What is wrong with the facts about an image.
fn wrong_facts(json: &[u8], image: &Image) -> Option<(What, String)> {
    let facts: Value = match serde_json::from_slice(json) {
        Ok(facts) => facts,
        Err(error) => return Some((What::Unreadable, error.to_string())),
    };
    let mut differ = json_differences(&facts["recipe"], image);
    if facts["index"].as_u64() != Some(image.index) {
        differ.push("index".to_owned());
    }
    if facts["sha256"].as_str() != Some(&image.sha256) {
        differ.push("sha256".to_owned());
    }
    (!differ.is_empty()).then(|| (What::Recipe, format!("it has another {}", differ.join(", "))))
}

#[cfg(test)]
mod tests;

//! Whether something is ours to delete.
//!
//! A name alone does not tell: an image may have failed because somebody's file stands where its picture belongs.

use std::collections::{BTreeSet, HashSet};

use sanafarm_net::Channel;
use sanafarm_proto::v1::cell::Value as CellValue;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::query_response::Part;
use sanafarm_proto::v1::{GetJobRequest, Image, ListImagesRequest, QueryRequest};
use sanafarm_storage::{Entry, Found, Output};
use sanafarm_worker::picture;

use super::find::STAGING;
use super::{Category, Orphan};
use crate::commands::verify::differences;
use crate::error::Error;
use crate::job_view::has_ended;
use crate::output::storage_error;
use crate::submission::blocking;

/// Folder of thumbnails.
const THUMBNAILS: &str = "thumbnails/";
/// Largest side of a thumbnail.
const THUMBNAIL_SIDE: u32 = 256;
/// Larger files are no pictures of ours.
const LARGEST: u64 = 4 << 30;

/// Asks the history and looks into objects.
pub struct Judge {
    jobs: JobServiceClient<Channel>,
    history: HistoryServiceClient<Channel>,
    output: Output,
}

impl Judge {
    pub fn new(channel: Channel, output: Output) -> Self {
        let (jobs, history) = (JobServiceClient::new(channel.clone()), HistoryServiceClient::new(channel));
        Self { jobs, history, output }
    }

    /// An object with the name of an image that has no picture: ours when it carries the recipe of this image. None when it is
    /// gone by now.
    pub async fn dead(&mut self, entry: Entry, job: String, index: u64) -> Result<Option<Orphan>, Error> {
        let failed = |error| storage_error(format!("look at {}", entry.name), &error);
        let file = match self.output.get(&entry.name, LARGEST).await.map_err(failed)? {
            Found::Nothing => return Ok(None),
            Found::Larger => return Ok(Some(unknown(entry))),
            Found::Object(file) => file,
        };
        let is_thumbnail = entry.name.starts_with(THUMBNAILS);
        let is_ours = if is_thumbnail {
            blocking(move || is_small_jpeg(&file)).await?
        } else {
            let image = self.image(&job, index).await?;
            blocking(move || {
                let recipe = picture::recipe(&file);
                image.is_some_and(|image| is_of(&recipe, &image))
            })
            .await?
        };
        if !is_ours {
            return Ok(Some(unknown(entry)));
        }
        let category = if is_thumbnail { Category::Thumbnail } else { Category::Dead };
        Ok(Some(Orphan { entry, category, image: Some((job, index)) }))
    }

    /// An object whose name nobody knows: ours when it is the tar of an attempt that nobody can report any more. None when it
    /// may still be reported.
    pub async fn unknown(
        &mut self,
        entry: Entry,
        pending: &HashSet<String>,
    ) -> Result<Option<Orphan>, Error> {
        let Some((shard, attempt)) = attempt(&entry.name) else { return Ok(Some(unknown(entry))) };
        if pending.contains(&format!("{STAGING}{shard}-{attempt}.tar")) {
            return Ok(None);
        }
        match self.job_of_attempt(shard, attempt).await? {
            // The list may be older than this tar: its job decides.
            Some(job) if self.has_ended(&job).await? => {
                Ok(Some(Orphan { entry, category: Category::Staged, image: None }))
            }
            Some(_) => Ok(None),
            None => Ok(Some(unknown(entry))),
        }
    }

    /// Those jobs of orphans that are ended now: one that failed may run again.
    pub async fn still_ended(&mut self, orphans: &[Orphan]) -> Result<BTreeSet<String>, Error> {
        let jobs: BTreeSet<&String> =
            orphans.iter().filter_map(|orphan| orphan.image.as_ref()).map(|(job, _)| job).collect();
        let mut ended = BTreeSet::new();
        for job in jobs {
            if self.has_ended(job).await? {
                ended.insert(job.clone());
            }
        }
        Ok(ended)
    }

    async fn has_ended(&mut self, job: &str) -> Result<bool, Error> {
        let answer = self.jobs.get_job(GetJobRequest { job_id: job.to_owned() }).await;
        let job = answer.map_err(|status| Error::call(format!("look at job {job}"), &status))?;
        Ok(has_ended(job.get_ref()))
    }

    async fn image(&mut self, job: &str, index: u64) -> Result<Option<Image>, Error> {
        let failed = |status| Error::call(format!("find image {index} of job {job}"), &status);
        let request =
            ListImagesRequest { job_id: job.to_owned(), from: index, limit: 1, ..Default::default() };
        let mut images = self.jobs.list_images(request).await.map_err(failed)?.into_inner();
        Ok(images.message().await.map_err(failed)?.filter(|image| image.index == index))
    }

    /// The job of an attempt; none when it is of another farm.
    async fn job_of_attempt(&mut self, shard: &str, attempt: u32) -> Result<Option<String>, Error> {
        let failed = |status| Error::call(format!("find attempt {attempt} of shard {shard}"), &status);
        let sql =
            format!("SELECT job_id FROM audit_attempts WHERE shard_id = '{shard}' AND attempt = {attempt}");
        let mut answers = self.history.query(QueryRequest { sql }).await.map_err(failed)?.into_inner();
        let mut job = None;
        while let Some(answer) = answers.message().await.map_err(failed)? {
            let Some(Part::Rows(rows)) = answer.part else { continue };
            let cells = rows.rows.into_iter().flat_map(|row| row.cells);
            for cell in cells {
                if let Some(CellValue::Text(text)) = cell.value {
                    job = Some(text);
                }
            }
        }
        Ok(job)
    }
}

fn unknown(entry: Entry) -> Orphan {
    Orphan { entry, category: Category::Unknown, image: None }
}

/// Whether a picture was made for this image.
fn is_of(recipe: &Result<picture::Provenance, picture::Unreadable>, image: &Image) -> bool {
    recipe.as_ref().is_ok_and(|recipe| recipe.program == "sanafarm" && differences(recipe, image).is_empty())
}

fn is_small_jpeg(file: &[u8]) -> bool {
    let small = |pixels: picture::Pixels| pixels.width.max(pixels.height) <= THUMBNAIL_SIDE;
    picture::Format::of(file) == Some(picture::Format::Jpeg) && picture::pixels(file).is_ok_and(small)
}

/// Shard and attempt in the name of a staged tar: `.staging/<shard>-<attempt>.tar`, or with another number for one that was packed
/// anew.
fn attempt(name: &str) -> Option<(&str, u32)> {
    let stem = name.strip_prefix(STAGING)?.strip_suffix(".tar")?;
    // The id of a shard.
    let shard = stem.get(..36)?;
    let is_id = shard.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    let mut numbers = stem.get(36..)?.strip_prefix('-')?.split('-').map(str::parse::<u32>);
    let attempt = numbers.next()?.ok()?;
    let turn_is_number = numbers.next().is_none_or(|turn| turn.is_ok());
    (is_id && turn_is_number && numbers.next().is_none()).then_some((shard, attempt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_staged_tar_tells_its_attempt() {
        let shard = "0199c0de-0000-7000-8000-0123456789ab";
        let of = |rest: &str| attempt(&format!(".staging/{shard}{rest}")).map(|(_, attempt)| attempt);
        assert_eq!((of("-3.tar"), of("-12-1.tar")), (Some(3), Some(12)));
        for strange in ["-3", ".tar", "-x.tar", "-3-x.tar", "-3-1-1.tar", "-3.tar.bak"] {
            assert_eq!(of(strange), None, "{strange}");
        }
        for strange in
            [".staging/mine.tar", "train-000000.tar", ".staging/'; drop table jobs --00000000000-1.tar"]
        {
            assert_eq!(attempt(strange), None, "{strange}");
        }
    }
}

//! What is wrong with an object, and how much was looked at.

use std::collections::BTreeMap;

use sanafarm_proto::v1::{Image, Job};
use serde_json::{Map, Value, json};

use crate::job_view::job_state;
use crate::printer::amounts::{bytes, count, counted};
use crate::printer::one_line;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It is not there.
    Missing,
    /// It has another size than the history says.
    Size,
    /// It has the right size and other bytes.
    Sha256,
    /// It carries another recipe: it is another picture.
    Recipe,
    /// It is as it was stored, and no picture or table that can be read.
    Unreadable,
    /// A table does not tell of as many images as there are.
    Rows,
    /// It does not belong there.
    Extra,
}

impl What {
    /// The word of the output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Sha256 => "sha256",
            Self::Recipe => "recipe",
            Self::Unreadable => "unreadable",
            Self::Rows => "rows",
            Self::Extra => "extra",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Of the image, when it is about one.
    pub index: Option<u64>,
    /// Below the output; of what is in a tar `TAR/NAME`.
    pub object: String,
    /// Sorts it.
    pub what: What,
    /// For people.
    pub detail: String,
    /// What is rendered again because of it.
    pub lost: Option<Lost>,
}

/// An image whose picture, or whose whole tar, is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Of the image, or of one in the tar.
    pub index: u64,
    /// The object, which may be there in another state.
    pub object: String,
    /// Its hash in the history.
    pub sha256: String,
}

impl Problem {
    /// About an object that is no picture of its own.
    pub fn about(object: impl Into<String>, what: What, detail: impl Into<String>) -> Self {
        Self { index: None, object: object.into(), what, detail: detail.into(), lost: None }
    }

    /// About the object of an image.
    pub fn of(image: &Image, what: What, detail: impl Into<String>) -> Self {
        let (index, object, sha256) = (image.index, image.object.clone(), image.sha256.clone());
        let about = Self::about(object.clone(), what, detail);
        Self { index: Some(index), lost: Some(Lost { index, object, sha256 }), ..about }
    }

    /// One JSON object.
    pub fn json(&self) -> Value {
        json!({ "index": self.index, "object": self.object, "what": self.what.word(), "detail": self.detail })
    }

    /// One line.
    pub fn line(&self) -> String {
        let index = self.index.map_or_else(|| "-".to_owned(), |index| format!("#{index}"));
        let text = format!("{:<10}  {index:<8}  {}: {}", self.what.word(), self.object, self.detail);
        one_line(&text)
    }
}

/// How much was looked at, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Pictures that were looked at.
    pub checked: u64,
    /// Tars that were looked at.
    pub tars: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Done images whose tar has no name yet.
    pub waiting: u64,
    /// Images that are rendered again.
    pub requeued: u64,
    problems: BTreeMap<What, u64>,
}

impl Tally {
    /// One more is wrong.
    pub fn wrong(&mut self, what: What) {
        *self.problems.entry(what).or_default() += 1;
    }

    /// Number of problems.
    pub fn problems(&self) -> u64 {
        self.problems.values().sum()
    }

    /// The last JSON object.
    pub fn json(&self, job: &Job) -> Value {
        let by: Map<String, Value> =
            self.problems.iter().map(|(what, number)| (what.word().to_owned(), json!(number))).collect();
        json!({
            "job_id": job.job_id,
            "state": job_state(job.state()),
            "images": job.images,
            "done": job.done,
            "failed": job.failed,
            "checked": self.checked,
            "tars": self.tars,
            "bytes": self.bytes,
            "problems": self.problems(),
            "by": by,
            "requeued": self.requeued,
        })
    }

    /// The same for people.
    pub fn text(&self, job: &Job) -> String {
        let looked = match self.checked == job.done {
            true => counted(self.checked, "picture"),
            false => format!("{} of {}", count(self.checked), counted(job.done, "picture")),
        };
        let tars = if self.tars == 0 { String::new() } else { format!(" in {}", counted(self.tars, "tar")) };
        let mut text = format!("looked at {looked}{tars}");
        if self.bytes > 0 {
            text.push_str(&format!(", {}", bytes(self.bytes as f64)));
        }
        let open = job.images - job.done - job.failed;
        if open > 0 {
            text.push_str(&format!("; {} not rendered yet", counted(open, "image")));
        }
        if self.waiting > 0 {
            text.push_str(&format!("; {} in tars that have no name yet", counted(self.waiting, "picture")));
        }
        let by: Vec<String> = self
            .problems
            .iter()
            .map(|(what, number)| format!("{} {}", count(*number), what.word()))
            .collect();
        match by.as_slice() {
            [] if job.failed > 0 => text.push_str(": they are well"),
            [] => text.push_str(": all is well"),
            by => text.push_str(&format!(": {} ({})", counted(self.problems(), "problem"), by.join(", "))),
        }
        if job.failed > 0 {
            let has = if job.failed == 1 { "has" } else { "have" };
            let failed = counted(job.failed, "image");
            text.push_str(&format!(
                "; {failed} failed and {has} none (`sanafarm images {} --failed`)",
                job.job_id
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_told_with_what_was_left_out() {
        let mut job = Job { job_id: "j".to_owned(), images: 1200, done: 1100, failed: 60, ..Job::default() };
        let mut tally = Tally { checked: 1100, bytes: 2_000_000, ..Tally::default() };
        assert_eq!(
            tally.text(&job),
            "looked at 1,100 pictures, 2.00 MB; 40 images not rendered yet: they are well; 60 images failed and have none \
             (`sanafarm images j --failed`)"
        );
        job.failed = 0;
        for what in [What::Sha256, What::Missing, What::Sha256] {
            tally.wrong(what);
        }
        assert!(tally.text(&job).ends_with(": 3 problems (1 missing, 2 sha256)"), "{}", tally.text(&job));
        assert_eq!(tally.json(&job)["by"], json!({ "missing": 1, "sha256": 2 }));
    }
}

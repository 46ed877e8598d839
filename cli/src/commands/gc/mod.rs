//! `sanafarm gc`: what lies in an output and belongs to nobody.
//!
//! The list of the output and the list of what the history knows come in the same order and are read side by side: memory
//! does not grow with either. What is to be deleted is looked at again first.
//!
//! - `known`: what the history knows; `find`: the two lists side by side; `judge`: whether something is ours to delete

mod find;
mod judge;
mod known;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use sanafarm_net::Channel;
use sanafarm_proto::v1::GetJobRequest;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_storage::{Entry, Output};
use serde_json::{Map, Value, json};
use tonic::Code;

use crate::args::GcArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::output::{self, storage_error};
use crate::printer::amounts::{bytes, counted};
use crate::printer::{Printer, one_line};

use find::{Finder, Found};
use judge::Judge;
use known::Known;

/// Objects that are looked at once more before they are deleted together.
const BATCH: usize = 256;

/// What belongs to nobody, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Category {
    /// A picture of an ended job whose image is not done.
    Dead,
    /// The thumbnail of one.
    Thumbnail,
    /// A tar of a lease that ended without it.
    Staged,
    /// Written half by a process that was killed.
    Leftover,
    /// Not known to the history.
    Unknown,
}

impl Category {
    fn word(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Thumbnail => "thumbnail",
            Self::Staged => "staged",
            Self::Leftover => "leftover",
            Self::Unknown => "unknown",
        }
    }
}

/// An object that belongs to nobody.
#[derive(Clone, Debug, PartialEq)]
struct Orphan {
    entry: Entry,
    category: Category,
    /// The job and the image that it would have been of.
    image: Option<(String, u64)>,
}

impl Orphan {
    fn json(&self, deleted: bool) -> Value {
        json!({
            "object": self.entry.name,
            "bytes": self.entry.bytes,
            "modified": time(self.entry.modified),
            "category": self.category.word(),
            "job_id": self.image.as_ref().map(|(job, _)| job),
            "index": self.image.as_ref().map(|(_, index)| index),
            "deleted": deleted,
        })
    }

    fn line(&self, deleted: bool) -> String {
        let deleted = if deleted { "  deleted" } else { "" };
        let Entry { name, bytes: size, .. } = &self.entry;
        one_line(&format!("{:<9}  {:>10}  {name}{deleted}", self.category.word(), bytes(*size as f64)))
    }
}

fn time(time: SystemTime) -> Value {
    Timestamp::try_from(time).map_or(Value::Null, |time| json!(time.to_string()))
}

/// Number and bytes of each category.
#[derive(Debug, Default)]
struct Tally {
    found: BTreeMap<Category, (u64, u64)>,
    deleted: (u64, u64),
    young: u64,
}

/// Lists, and deletes when that was asked for.
pub async fn run(args: GcArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.clone().into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let place = place(&mut client, &args.of).await?;
    let known = Known::list(&mut client, &place).await?;
    let output = output::open(&place).await?;
    let before = SystemTime::now().checked_sub(args.older_than).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut collector = Collector {
        judge: Judge::new(connection.channel.clone(), output.clone()),
        output,
        tally: Tally::default(),
        args: &args,
        before,
        waiting: Vec::new(),
        printer,
    };
    collector.collect(known).await?;
    let tally = &collector.tally;
    match args.json {
        true => printer.data(tally.json(&place, args.delete))?,
        false => printer.note(tally.text(&place, args.delete)),
    }
    drop((client, collector));
    connection.close().await;
    Ok(Exit::Success)
}

/// The output that the user means, as its jobs name it.
async fn place(client: &mut JobServiceClient<Channel>, of: &str) -> Result<String, Error> {
    if !of.contains(['/', '\\']) && !Path::new(of).is_dir() {
        let request = GetJobRequest { job_id: of.to_owned() };
        let job = client.get_job(request).await.map_err(|status| match status.code() {
            Code::NotFound => Error::call(format!("find job or output {of}"), &status)
                .hint("name an output folder or URL as its jobs do, or a job"),
            _ => Error::call(format!("find job {of}"), &status),
        })?;
        return Ok(job.into_inner().output);
    }
    if of.contains("://") {
        return Ok(of.to_owned());
    }
    let folder = std::path::absolute(of.trim_end_matches('/'))
        .map_err(|error| Error::mistake(format!("find output {of}")).caused_by(&error))?;
    let named = folder.to_str().ok_or_else(|| Error::mistake(format!("find output {of}")))?;
    Ok(named.to_owned())
}

struct Collector<'a> {
    judge: Judge,
    output: Output,
    tally: Tally,
    args: &'a GcArgs,
    /// What was written later is left alone.
    before: SystemTime,
    waiting: Vec<Orphan>,
    printer: &'a Printer,
}

impl Collector<'_> {
    async fn collect(&mut self, known: Known) -> Result<(), Error> {
        let leftovers = self.output.leftovers().await;
        for entry in leftovers.map_err(|error| storage_error("look for leftovers", &error))? {
            self.found(Orphan { entry, category: Category::Leftover, image: None }).await?;
        }
        let mut finder = Finder::new(self.output.list(None), known);
        while let Some(found) = finder.next().await? {
            let orphan = match found {
                Found::Dead { entry, .. } | Found::Unknown(entry) if self.is_young(&entry) => {
                    self.tally.young += 1;
                    tracing::debug!(object = entry.name, "left alone: it is young");
                    continue;
                }
                Found::Dead { entry, job, index } => self.judge.dead(entry, job, index).await?,
                Found::Unknown(entry) => self.judge.unknown(entry, finder.pending_tars()).await?,
            };
            if let Some(orphan) = orphan {
                self.found(orphan).await?;
            }
        }
        self.settle().await
    }

    fn is_young(&self, entry: &Entry) -> bool {
        entry.modified > self.before
    }

    async fn found(&mut self, orphan: Orphan) -> Result<(), Error> {
        if self.is_young(&orphan.entry) {
            self.tally.young += 1;
            return Ok(());
        }
        let (objects, bytes) = self.tally.found.entry(orphan.category).or_default();
        (*objects, *bytes) = (*objects + 1, *bytes + orphan.entry.bytes);
        if !self.args.delete || orphan.category == Category::Unknown {
            return self.tell(&orphan, false);
        }
        self.waiting.push(orphan);
        if self.waiting.len() >= BATCH { self.settle().await } else { Ok(()) }
    }

    /// Deletes what waits, unless its job runs again by now.
    async fn settle(&mut self) -> Result<(), Error> {
        let orphans = std::mem::take(&mut self.waiting);
        let ended = self.judge.still_ended(&orphans).await?;
        for orphan in orphans {
            let is_free = orphan.image.as_ref().is_none_or(|(job, _)| ended.contains(job));
            let name = &orphan.entry.name;
            let removed = match (is_free, orphan.category) {
                (false, _) => Ok(false),
                (true, Category::Leftover) => self.output.remove_leftover(name).await,
                (true, _) => self.output.remove(name).await,
            };
            let removed = removed.map_err(|error| storage_error(format!("delete {name}"), &error))?;
            if removed {
                let (objects, bytes) = self.tally.deleted;
                self.tally.deleted = (objects + 1, bytes + orphan.entry.bytes);
            }
            self.tell(&orphan, removed)?;
        }
        Ok(())
    }

    fn tell(&self, orphan: &Orphan, deleted: bool) -> Result<(), Error> {
        match self.args.json {
            true => self.printer.data(orphan.json(deleted)),
            false => self.printer.data(orphan.line(deleted)),
        }
    }
}

impl Tally {
    /// Of what may be deleted.
    fn orphans(&self) -> (u64, u64) {
        let ours = self.found.iter().filter(|(category, _)| **category != Category::Unknown);
        ours.fold((0, 0), |(objects, bytes), (_, (more, larger))| (objects + more, bytes + larger))
    }

    fn json(&self, place: &str, delete: bool) -> Value {
        let by: Map<String, Value> = self
            .found
            .iter()
            .map(|(category, (objects, bytes))| {
                (category.word().to_owned(), json!({ "objects": objects, "bytes": bytes }))
            })
            .collect();
        let (objects, bytes) = self.orphans();
        let deleted = json!({ "objects": self.deleted.0, "bytes": self.deleted.1 });
        json!({
            "output": place,
            "orphans": { "objects": objects, "bytes": bytes },
            "by": by,
            "young": self.young,
            "deleted": if delete { deleted } else { Value::Null },
        })
    }

    fn text(&self, place: &str, delete: bool) -> String {
        let (objects, size) = self.orphans();
        let mut text = match objects {
            0 => format!("nothing to clean up in {place}"),
            objects => {
                format!("{} ({}) in {place} belong to nobody", counted(objects, "object"), bytes(size as f64))
            }
        };
        if let Some((unknown, size)) = self.found.get(&Category::Unknown) {
            let size = bytes(*size as f64);
            text.push_str(&format!("; {} ({size}) of strangers stay", counted(*unknown, "object")));
        }
        if self.young > 0 {
            text.push_str(&format!("; {} too young to be judged", counted(self.young, "object")));
        }
        match (delete, objects) {
            (true, _) => {
                let (objects, size) = self.deleted;
                text.push_str(&format!("; deleted {} ({})", counted(objects, "object"), bytes(size as f64)));
            }
            (false, 0) => {}
            (false, _) => text.push_str("; --delete deletes them"),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_summed_up_without_what_strangers_own() {
        let found = [(Category::Dead, (2, 3_000_000)), (Category::Unknown, (1, 500))];
        let tally = Tally { found: found.into(), deleted: (2, 3_000_000), young: 4 };
        assert_eq!(
            tally.text("out", false),
            "2 objects (3.00 MB) in out belong to nobody; 1 object (500 B) of strangers stay; 4 objects too young to be \
             judged; --delete deletes them"
        );
        assert!(tally.text("out", true).ends_with("; deleted 2 objects (3.00 MB)"));
        assert_eq!(Tally::default().text("out", false), "nothing to clean up in out");
    }
}

//! The list of an output beside the list of what is known.

use std::collections::HashSet;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use sanafarm_proto::v1::ListedObject;
use sanafarm_storage::Entry;

use super::known::Known;
use crate::error::Error;
use crate::output::storage_error;

/// State of an object that nobody needs.
const DEAD: &str = "dead";
/// Folder of tars on their way.
pub const STAGING: &str = ".staging/";

/// Something in an output that no job needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It has the name of an image without a picture whose job has ended.
    Dead { entry: Entry, job: String, index: u64 },
    /// Nobody knows its name.
    Unknown(Entry),
}

/// Reads both lists.
pub struct Finder {
    listed: Pin<Box<dyn Stream<Item = Result<Entry, sanafarm_storage::Error>> + Send>>,
    known: Known,
    ahead: Option<ListedObject>,
    /// Tars that may still be reported; other names of them come earlier in the order.
    pending: HashSet<String>,
    /// Unknown names beside them, which are judged when all of these are known.
    beside: Vec<Entry>,
}

impl Finder {
    /// Both lists from their beginning.
    pub fn new(
        listed: impl Stream<Item = Result<Entry, sanafarm_storage::Error>> + Send + 'static,
        known: Known,
    ) -> Self {
        Self { listed: Box::pin(listed), known, ahead: None, pending: HashSet::new(), beside: Vec::new() }
    }

    /// Names of tars that may still be reported, as their lease names them. Complete once an unknown tar comes out.
    pub fn pending_tars(&self) -> &HashSet<String> {
        &self.pending
    }

    /// The next object that no job needs. Those in the folder of staged tars come last.
    pub async fn next(&mut self) -> Result<Option<Found>, Error> {
        while let Some(entry) = self.listed.next().await {
            let entry = entry.map_err(|error| storage_error("list the output", &error))?;
            match self.look_up(&entry.name).await?.as_slice() {
                [] if entry.name.starts_with(STAGING) => self.beside.push(entry),
                [] => return Ok(Some(Found::Unknown(entry))),
                // A name may be that of several jobs, when the first ones were cancelled before their first picture.
                [dead, others @ ..]
                    if dead.state == DEAD && others.iter().all(|other| other.state == DEAD) =>
                {
                    let (job, index) = (dead.job_id.clone(), dead.index.unwrap_or_default());
                    return Ok(Some(Found::Dead { entry, job, index }));
                }
                _ => {}
            }
        }
        if !self.beside.is_empty() {
            while self.advance().await? {}
        }
        Ok(self.beside.pop().map(Found::Unknown))
    }

    /// All that is known of a name; names are asked for in order.
    async fn look_up(&mut self, name: &str) -> Result<Vec<ListedObject>, Error> {
        let mut found = Vec::new();
        loop {
            if self.ahead.is_none() && !self.advance().await? {
                return Ok(found);
            }
            match self.ahead.as_ref().map(|ahead| ahead.name.as_str().cmp(name)) {
                Some(std::cmp::Ordering::Greater) | None => return Ok(found),
                Some(std::cmp::Ordering::Equal) => found.extend(self.ahead.take()),
                Some(std::cmp::Ordering::Less) => self.ahead = None,
            }
        }
    }

    /// Reads on by one; false at the end.
    async fn advance(&mut self) -> Result<bool, Error> {
        self.ahead = self.known.next().await?;
        let Some(ahead) = &self.ahead else { return Ok(false) };
        if ahead.name.starts_with(STAGING) && ahead.state != DEAD {
            self.pending.insert(ahead.name.clone());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn known(objects: &[(&str, &str)]) -> Known {
        Known::of(objects.iter().map(|(name, state)| ListedObject {
            name: (*name).to_owned(),
            state: (*state).to_owned(),
            job_id: "job".to_owned(),
            index: Some(7),
            ..ListedObject::default()
        }))
    }

    /// What was found: the name, and whether it is dead.
    async fn find(listed: &[&str], objects: &[(&str, &str)]) -> Vec<(String, bool)> {
        let entries: Vec<_> = listed
            .iter()
            .map(|name| {
                Ok(Entry {
                    name: (*name).to_owned(),
                    bytes: 1,
                    modified: SystemTime::UNIX_EPOCH,
                    e_tag: None,
                })
            })
            .collect();
        let mut finder = Finder::new(futures::stream::iter(entries), known(objects));
        let mut found = Vec::new();
        while let Some(next) = finder.next().await.unwrap() {
            found.push(match next {
                Found::Dead { entry, .. } => (entry.name, true),
                Found::Unknown(entry) => (entry.name, false),
            });
        }
        found
    }

    #[tokio::test]
    async fn what_is_dead_or_unknown_is_found_and_nothing_else() {
        let listed = ["0", "a", "b", "c", "d", "e", "z"];
        let objects = [("a", "done"), ("aa", "dead"), ("b", "dead"), ("c", "pending"), ("e", "manifest")];
        let found = find(&listed, &objects).await;
        assert_eq!(
            found,
            [("0", false), ("b", true), ("d", false), ("z", false)].map(|(n, d)| (n.into(), d))
        );
        assert_eq!(find(&[], &objects).await, []);
        assert_eq!(find(&["a"], &[]).await, [("a".to_owned(), false)]);
    }

    #[tokio::test]
    async fn a_name_is_dead_when_all_jobs_that_have_it_say_so() {
        for (states, dead) in
            [(["dead", "done"], false), (["pending", "dead"], false), (["dead", "dead"], true)]
        {
            let found = find(&["a"], &[("a", states[0]), ("a", states[1])]).await;
            assert_eq!(!found.is_empty(), dead, "{states:?}");
        }
    }

    #[tokio::test]
    async fn unknown_tars_come_when_all_that_are_pending_are_known() {
        let listed = [Ok(Entry {
            name: ".staging/x-1-1.tar".to_owned(),
            bytes: 1,
            modified: SystemTime::UNIX_EPOCH,
            e_tag: None,
        })];
        let objects = [(".staging/x-1.tar", "pending"), (".staging/y-1.tar", "staged"), ("a", "done")];
        let mut finder = Finder::new(futures::stream::iter(listed), known(&objects));
        let found = finder.next().await.unwrap();
        assert!(matches!(found, Some(Found::Unknown(entry)) if entry.name == ".staging/x-1-1.tar"));
        assert_eq!(finder.pending_tars().len(), 2);
        assert_eq!(finder.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_list_that_is_out_of_order_deletes_nothing() {
        let mut known = known(&[("b", "done"), ("a", "done")]);
        known.next().await.unwrap();
        let error = known.next().await.unwrap_err();
        assert_eq!(error.causes, ["a comes after b"]);
    }
}

//! The files below a folder in byte order of their names, without holding all of them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::Entry;
use crate::name::object_path;

/// Names of one folder that are held at a time; larger folders are read several times.
const BATCH: usize = 1 << 16;

/// One folder on the way.
struct Level {
    /// Its name below the output, with a slash at the end; empty for the output itself.
    prefix: String,
    /// What is next in it, the last one first. Names of folders end in a slash, so that they are in the order of
    /// what is in them.
    waiting: Vec<String>,
    /// Whether there is more than what waits.
    more: bool,
    /// The last that was taken.
    last: String,
}

/// Entries on their way to the reader; none after the last.
type Found = mpsc::Sender<Option<io::Result<Entry>>>;

/// Sends all files whose names come after `after`, until nobody listens.
pub(crate) fn walk(root: &Path, after: &str, found: &Found) {
    let last = walk_into(root, after, found).err().map(Err);
    if last.is_none() || found.blocking_send(last).is_ok() {
        // Nobody may listen any more.
        let _ = found.blocking_send(None);
    }
}

fn walk_into(root: &Path, after: &str, found: &Found) -> io::Result<()> {
    let mut levels =
        vec![Level { prefix: String::new(), waiting: Vec::new(), more: true, last: String::new() }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = next_name(root, level, after, BATCH)? else {
            levels.pop();
            continue;
        };
        let full = format!("{}{name}", level.prefix);
        if name.ends_with('/') {
            levels.push(Level { prefix: full, waiting: Vec::new(), more: true, last: String::new() });
            continue;
        }
        let Some((bytes, modified)) = file_facts(&root.join(&full))? else { continue };
        if found.blocking_send(Some(Ok(Entry { name: full, bytes, modified, e_tag: None }))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn next_name(root: &Path, level: &mut Level, after: &str, batch: usize) -> io::Result<Option<String>> {
    if level.waiting.is_empty() && level.more {
        let names = smallest(root.join(&level.prefix), level, after, batch)?;
        level.more = names.len() == batch;
        level.waiting = names.into_iter().rev().collect();
    }
    let name = level.waiting.pop();
    if let Some(name) = &name {
        level.last.clone_from(name);
    }
    Ok(name)
}

/// The first names of a folder after those that were taken and after `after`.
fn smallest(folder: PathBuf, level: &Level, after: &str, batch: usize) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // Removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // What cannot be the name of an object is none of ours.
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        if object_path(&name).is_err() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            name.push('/');
        }
        let full = format!("{}{name}", level.prefix);
        let wanted = full.as_str() > after || (name.ends_with('/') && after.starts_with(&full));
        if name <= level.last || !wanted {
            continue;
        }
        names.insert(name);
        if names.len() > batch {
            names.pop_last();
        }
    }
    Ok(names)
}

/// Size and time of the last change; none when it is no file, or gone.
pub(crate) fn file_facts(path: &Path) -> io::Result<Option<(u64, SystemTime)>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some((metadata.len(), metadata.modified()?))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_folder_is_read_in_several_turns() {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..10 {
            std::fs::write(folder.path().join(format!("{at}.png")), "x").unwrap();
        }
        let mut level = Level { prefix: String::new(), waiting: Vec::new(), more: true, last: String::new() };
        let mut names = Vec::new();
        while let Some(name) = next_name(folder.path(), &mut level, "1.png", 3).unwrap() {
            assert!(level.waiting.len() < 3);
            names.push(name);
        }
        let wanted: Vec<String> = (2..10).map(|at| format!("{at}.png")).collect();
        assert_eq!(names, wanted);
    }
}

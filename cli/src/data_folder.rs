//! The folder that holds the database, its lock, the unpacked models and the outboxes of workers.

use std::fmt::{self, Display, Formatter};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment;
use crate::error::Error;
use crate::printer::quoted;

/// Where data lies unless the user says otherwise.
const DEFAULT: &str = ".sanafarm";
/// Tries of a lock, and the time between them: looking who holds it takes less.
const LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_millis(20);

/// A data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFolder {
    path: PathBuf,
}

/// The right to change what is in a data folder; it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever looks need not try the lock then. What is not emptied is found out by its lock.
        let _ = self.file.set_len(0);
    }
}

/// Who holds a data folder, as far as its lock file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pid: Option<String>,
    command: Option<String>,
    address: Option<String>,
}

impl Holder {
    /// Reads `PID COMMAND ADDRESS`, of which the last may be absent.
    fn read(note: &str) -> Self {
        let mut words = note.split_whitespace().map(str::to_owned);
        Self { pid: words.next(), command: words.next(), address: words.next() }
    }

    /// Where it serves, when it is a coordinator.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }
}

impl Display for Holder {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match (&self.pid, &self.command) {
            (Some(pid), Some(command)) => {
                write!(out, "`sanafarm {command}`")?;
                if let Some(address) = &self.address {
                    write!(out, " at {address}")?;
                }
                write!(out, " (process {pid})")
            }
            (Some(pid), None) => write!(out, "process {pid}"),
            (None, _) => write!(out, "another process"),
        }
    }
}

impl DataFolder {
    /// The folder that was named, else `.sanafarm`.
    pub fn choose(data: Option<PathBuf>) -> Self {
        Self { path: data.unwrap_or_else(|| PathBuf::from(DEFAULT)) }
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a command finds it without being told.
    pub fn is_default(&self) -> bool {
        *self == Self::choose(environment::filled(environment::DATA).map(PathBuf::from))
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.path.join("sanafarm.db")
    }

    /// Unpacked and downloaded models.
    pub fn models(&self) -> PathBuf {
        self.path.join("models")
    }

    /// Finished images that no coordinator has acknowledged.
    pub fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// The option that names it in a command, with a space before it; nothing where a command finds it by itself.
    pub fn option(&self) -> String {
        // A variable or a file may name another place than this one.
        let elsewhere = [environment::COORDINATOR, environment::CONFIG]
            .into_iter()
            .any(|name| environment::filled(name).is_some());
        match elsewhere || !self.is_default() {
            true => format!(" --data {}", quoted(&self.path.to_string_lossy())),
            false => String::new(),
        }
    }

    /// Makes the folder when it is not there, for nobody else: prompts and hashes of tokens are in it.
    pub fn create(&self) -> Result<(), Error> {
        let made = match self.path.parent() {
            Some(parent) if !self.path.is_dir() => std::fs::create_dir_all(parent),
            Some(_) | None => Ok(()),
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        made.and_then(|()| builder.create(&self.path)).map_err(|error| {
            Error::mistake(format!("create data folder {}", self.path.display()))
                .caused_by(&error)
                .hint("name a folder that you may write to with --data")
        })
    }

    /// Takes the only lock of this folder for a command, which may serve at an address; two processes that write one
    /// database would lose each other's leases.
    pub fn lock(&self, command: &str, address: Option<&str>) -> Result<Lock, Error> {
        let path = self.lock_file();
        let failed = |error: &std::io::Error| {
            Error::mistake(format!("lock data folder {}", self.path.display()))
                .caused_by(error)
                .hint("name a folder that you may write to with --data")
        };
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| failed(&error))?;
        for tries in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                // Somebody may only have looked who holds it.
                Err(TryLockError::WouldBlock) if tries < LOOKS => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Err(self.in_use(&mut file, command)),
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
        }
        // Only a help for whoever is refused or looks: the lock itself does not depend on it.
        let note = file.set_len(0).and_then(|()| file.rewind());
        let text = format!("{} {command} {}", std::process::id(), address.unwrap_or_default());
        note.and_then(|()| writeln!(file, "{}", text.trim_end())).map_err(|error| failed(&error))?;
        Ok(Lock { file })
    }

    /// Who holds the lock now; `None` when nobody does, or when that cannot be told.
    pub fn holder(&self) -> Option<Holder> {
        let mut file = File::open(self.lock_file()).ok()?;
        let holder = noted(&mut file);
        // A note that was left by a killed process is told by the lock, which went with it.
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(holder),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    fn in_use(&self, file: &mut File, wanted: &str) -> Error {
        let holder = noted(file);
        let stopped = holder.command.as_deref() == Some("render");
        let hint = match (holder.address(), wanted) {
            (Some(_), "coordinator") => "stop it first, or serve another folder with --data".to_owned(),
            (Some(address), "render") => format!(
                "hand the list to it with `sanafarm submit --coordinator {address}`, or render in another folder with --data"
            ),
            (Some(address), _) => format!("ask it: name it with --coordinator {address}"),
            (None, _) if stopped => {
                "wait until it ends, or stop it with Ctrl-C: the same command goes on later".to_owned()
            }
            (None, _) => "wait until it ends, or work in another folder with --data".to_owned(),
        };
        Error::mistake(format!("data folder {} is in use by {holder}", self.path.display())).hint(hint)
    }
}

/// What the lock file says.
fn noted(file: &mut File) -> Holder {
    let mut note = String::new();
    // A note that cannot be read is as good as none.
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut note));
    Holder::read(&note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_owner_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder { path: folder.path().join("data") };
        data.create().unwrap();
        assert_eq!(data.holder(), None);
        let first = data.lock("coordinator", Some("127.0.0.1:7070")).unwrap();
        let refused = data.lock("render", None).unwrap_err();
        let owner = format!("`sanafarm coordinator` at 127.0.0.1:7070 (process {})", std::process::id());
        assert!(refused.what.ends_with(&format!("is in use by {owner}")), "{}", refused.what);
        assert!(refused.hint.unwrap().contains("--coordinator 127.0.0.1:7070`"));
        let refused = data.lock("retry", None).unwrap_err();
        assert_eq!(refused.hint.unwrap(), "ask it: name it with --coordinator 127.0.0.1:7070");
        assert_eq!(data.holder().unwrap().to_string(), owner);
        drop(first);
        assert_eq!(data.holder(), None);
        data.lock("render", None).unwrap();
    }

    #[test]
    fn the_folder_is_its_owners_alone_and_one_that_is_there_stays_as_it_is() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let data = DataFolder { path: folder.path().join("a/data") };
        data.create().unwrap();
        assert_eq!(mode(data.path()), 0o700);
        std::fs::set_permissions(data.path(), PermissionsExt::from_mode(0o750)).unwrap();
        data.create().unwrap();
        assert_eq!(mode(data.path()), 0o750);
    }

    #[test]
    fn a_note_of_an_older_program_is_understood() {
        assert_eq!(Holder::read("4680\n").to_string(), "process 4680");
        assert_eq!(Holder::read("").to_string(), "another process");
    }
}

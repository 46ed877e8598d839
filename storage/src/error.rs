//! Errors, sorted by what a person can do about them.

use std::io;

use crate::remote::{Failure, cause};

/// Why the output could not be read or written. Every text names the object, the place and the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The disk or the quota is full.
    #[error("{0}")]
    Full(String),
    /// Reading or writing is not allowed there.
    #[error("{0}")]
    Denied(String),
    /// The name or the place can never work.
    #[error("{0}")]
    Invalid(String),
    /// The file or object is not there.
    #[error("{0}")]
    NotFound(String),
    /// Anything else: trying again may help.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// What to try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Full(_) => "free some space there or choose another output, then run the same again",
            Self::Denied(_) => {
                "check who may write there, for an object store also the credentials, or choose another output"
            }
            Self::Invalid(_) => "choose another output or another object name",
            Self::NotFound(_) => "check that the path is right and still there",
            Self::Unavailable(_) => "check that the place is reachable, then run the same again",
        }
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Full(_) | Self::Denied(_) | Self::Invalid(_) | Self::NotFound(_) => false,
        }
    }

    /// The same with its text changed.
    pub(crate) fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Full(text) => Self::Full(change(text)),
            Self::Denied(text) => Self::Denied(change(text)),
            Self::Invalid(text) => Self::Invalid(change(text)),
            Self::NotFound(text) => Self::NotFound(change(text)),
            Self::Unavailable(text) => Self::Unavailable(change(text)),
        }
    }

    /// Sorts an error of the store; `doing` says what was tried, on which object, where.
    pub(crate) fn from_store(doing: &str, error: &object_store::Error) -> Self {
        if let Some(failure) = Failure::of(error) {
            return failure.into_error(doing);
        }
        if let Some(cause) = cause::<io::Error>(error) {
            return Self::from_io(doing, cause);
        }
        let text = format!("{doing}: {error}");
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound(text),
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied(text)
            }
            object_store::Error::InvalidPath { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::UnknownConfigurationKey { .. } => Self::Invalid(text),
            // The foreign enum may grow: what it adds is tried again and, failing that, reported.
            _ => Self::Unavailable(text),
        }
    }

    /// Sorts an error of the operating system.
    pub(crate) fn from_io(doing: &str, error: &io::Error) -> Self {
        let text = format!("{doing}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(text)
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied(text),
            io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::CrossesDevices
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::Unsupported => Self::Invalid(text),
            io::ErrorKind::NotFound => Self::NotFound(text),
            _ => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_error(code: i32) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: Box::new(io::Error::from_raw_os_error(code)) }
    }

    #[test]
    fn a_full_disk_and_a_full_quota_are_told_from_denied_and_from_the_rest() {
        let sort = |code| Error::from_store("write a.png in /out", &store_error(code));
        assert!(matches!(sort(28), Error::Full(_)), "ENOSPC");
        assert!(matches!(sort(122), Error::Full(_)), "EDQUOT");
        assert!(matches!(sort(13), Error::Denied(_)), "EACCES");
        assert!(matches!(sort(30), Error::Denied(_)), "EROFS");
        assert!(matches!(sort(5), Error::Unavailable(_)), "EIO");
        let text = sort(28).to_string();
        assert!(text.starts_with("write a.png in /out: "), "{text}");
    }
}

//! Why a model cannot be had, sorted by what a person can do about it.

use std::io;

/// Why a model could not be found, downloaded or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference can never work.
    #[error("`{reference}` is no model: {why}")]
    Reference {
        /// As it was given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such folder.
    #[error("there is no model folder {0}")]
    Absent(String),
    /// The folder is there and holds no model.
    #[error("{0} holds no model_index.json")]
    NoModel(String),
    /// The bundled model could not be unpacked.
    #[error("unpack the bundled model into {folder}")]
    Unpack {
        /// Where it was to be unpacked.
        folder: String,
        /// What went wrong.
        source: io::Error,
    },
    /// What is there under the name is no whole model in the diffusers layout.
    #[error("{reference} cannot be used: {why}")]
    Layout {
        /// The model.
        reference: String,
        /// Which part is missing.
        why: String,
    },
    /// The server knows no such model, revision or file.
    #[error("{0}")]
    Unknown(String),
    /// The server refuses to give the model to whoever asks.
    #[error("{what}")]
    Denied {
        /// What was refused, and with which words.
        what: String,
        /// What to try.
        hint: &'static str,
    },
    /// The server cannot be reached, or does not answer in time: trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// What the server sent is not what it promised.
    #[error("{0}")]
    Damaged(String),
    /// The disk is full.
    #[error("{0}")]
    Full(String),
    /// The folder of downloaded models may not grow so far.
    #[error("{0}")]
    Room(String),
    /// A living process uses the model.
    #[error("{0} is in use by a living process")]
    InUse(String),
    /// The model was never downloaded here.
    #[error("{0} was not downloaded here")]
    NotHere(String),
    /// A file of the cache cannot be read or written.
    #[error("{doing}")]
    Io {
        /// What was tried, on which file.
        doing: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Whoever wanted the model wants it no more.
    #[error("stopped from outside")]
    Cancelled,
}

impl Error {
    /// What to try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Reference { .. } | Self::Absent(_) => {
                "name a folder in the diffusers layout, hf:owner/name[@revision], s3://bucket/prefix (also gs://, az://), or \
                 sana-tiny for the bundled model"
            }
            Self::NoModel(_) | Self::Layout { .. } => "name a whole model in the diffusers layout",
            Self::Unpack { .. } => "check that the folder can be written and has room",
            Self::Unknown(_) => "check the name and the revision",
            Self::Denied { hint, .. } => hint,
            Self::Unreachable(_) => {
                "check the network and the address (HF_ENDPOINT names a mirror of the hub), then run the same again: what was \
                 downloaded is kept"
            }
            Self::Damaged(_) => "run the same again; if that does not help, ask whoever keeps the model",
            Self::Full(_) => {
                "free some space there, or name another folder with --cache, then run the same again: what was \
                 downloaded is kept"
            }
            Self::Room(_) => "allow more with --cache-size, or see `sanafarm models list`",
            Self::InUse(_) => "wait until it ends",
            Self::NotHere(_) => "see `sanafarm models list`, or fetch it with `sanafarm models pull`",
            Self::Io { .. } => "check who may write there, or name another folder with --cache",
            Self::Cancelled => "run the same again: what was downloaded is kept",
        }
    }

    /// Whether the same may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether the user can mend it by asking for something else.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Reference { .. }
            | Self::Absent(_)
            | Self::NoModel(_)
            | Self::Unpack { .. }
            | Self::Layout { .. }
            | Self::Unknown(_)
            | Self::Denied { .. }
            | Self::Room(_)
            | Self::InUse(_)
            | Self::NotHere(_) => true,
            Self::Unreachable(_) | Self::Damaged(_) | Self::Full(_) | Self::Io { .. } | Self::Cancelled => {
                false
            }
        }
    }

    /// On one line, with all causes and what to try.
    pub fn in_full(&self) -> String {
        let cause = std::error::Error::source(self).map(|cause| format!(": {cause}"));
        format!("{self}{}; {}", cause.unwrap_or_default(), self.hint())
    }

    /// Sorts an error of the operating system; `doing` names the file.
    pub(super) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(format!("{doing}: the disk is full ({source})"))
            }
            _ => Self::Io { doing, source },
        }
    }
}

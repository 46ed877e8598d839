//! How a caller follows a render, stops it and takes its rows.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

/// Stops renders from any thread: within one denoising step, or one band of rows in the decoder. Clones are one token.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Stops all renders that were given this token or a clone, also those that begin later.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was told to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// How far a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its prompt is encoded next.
    Encoding,
    /// That many of its denoising steps are done; with 0 they begin.
    Denoising {
        /// Steps done.
        step: u32,
        /// All steps.
        steps: u32,
    },
    /// That many of its rows are handed out; with 0 the decoder begins.
    Decoding {
        /// Rows handed out.
        rows: u32,
        /// All rows.
        height: u32,
    },
}

/// Takes what comes of a render. Pictures are numbered by their place among the recipes.
///
/// A closure that takes rows is a sink for one picture, or for several one after the other.
pub trait Sink: Send {
    /// The next rows of a picture: one or more whole rows, `width * 3` bytes RGB each, from the top. An error ends this
    /// picture.
    fn rows(&mut self, picture: usize, rows: &[u8]) -> io::Result<()>;

    /// How far a picture is. Takes no note of it by default.
    fn progress(&mut self, _picture: usize, _progress: Progress) {}

    /// Whether the picture is still wanted: asked before each part of the work, after each step and before rows are handed
    /// out. One that is not ends with [`Error::Cancelled`] and the others go on.
    fn wants(&mut self, _picture: usize) -> bool {
        true
    }

    /// Nothing more comes of the picture: it is whole, or there will be none.
    fn ended(&mut self, _picture: usize, _outcome: Result<(), &Error>) {}
}

impl<F: FnMut(&[u8]) -> io::Result<()> + Send> Sink for F {
    fn rows(&mut self, _picture: usize, rows: &[u8]) -> io::Result<()> {
        self(rows)
    }
}

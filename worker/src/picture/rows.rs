//! Rows of a picture on their way from the engine to a file.

use super::quality::{Look, Quality};
use super::thumbnail::Thumbnail;
use super::write::WriteError;

/// Whole rows, whatever pieces they come in; each is looked at once as it passes.
pub(super) struct Rows<'a> {
    next: &'a mut dyn FnMut() -> Option<Vec<u8>>,
    /// The piece at hand, and how much of it has been taken.
    piece: Vec<u8>,
    taken: usize,
    /// The row that was handed out last.
    row: Vec<u8>,
    row_bytes: usize,
    left: u32,
    look: Look,
    thumbnail: Option<Thumbnail>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        (width, height): (u32, u32),
        thumbnail: bool,
        next: &'a mut dyn FnMut() -> Option<Vec<u8>>,
    ) -> Self {
        let row_bytes = width as usize * 3;
        Self {
            next,
            piece: Vec::new(),
            taken: 0,
            row: Vec::with_capacity(row_bytes),
            row_bytes,
            left: height,
            look: Look::default(),
            thumbnail: thumbnail.then(|| Thumbnail::new(width, height)),
        }
    }

    /// The next row of interleaved RGB; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, WriteError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.row.clear();
        while self.row.len() < self.row_bytes {
            if self.taken == self.piece.len() {
                self.piece = (self.next)().ok_or(WriteError::TooFewRows)?;
                self.taken = 0;
            }
            let rest = &self.piece[self.taken..];
            let part = &rest[..rest.len().min(self.row_bytes - self.row.len())];
            self.row.extend_from_slice(part);
            self.taken += part.len();
        }
        self.left -= 1;
        self.look.row(&self.row);
        if let Some(thumbnail) = &mut self.thumbnail {
            thumbnail.row(&self.row);
        }
        Ok(Some(&self.row))
    }

    /// The row that was handed out last.
    pub(super) fn last(&self) -> &[u8] {
        &self.row
    }

    /// What was seen, when all rows have come and no others.
    pub(super) fn finish(self) -> Result<(Quality, Option<Thumbnail>), WriteError> {
        if self.left > 0 {
            return Err(WriteError::TooFewRows);
        }
        let mut extra = self.piece.len() - self.taken;
        while extra == 0 {
            match (self.next)() {
                Some(piece) => extra = piece.len(),
                None => return Ok((self.look.finish()?, self.thumbnail)),
            }
        }
        Err(WriteError::TooManyRows)
    }
}

//! Rows of an answer on their way to whoever asked, some at a time.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Result;
use super::records::{Answer, Cell};

/// Analysts' statements that run at the same time, each on a connection of its own.
pub(super) const ANALYSTS: usize = 4;
/// Longest wait for another analyst's statement to end.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// Parts on their way to a slow reader.
pub(super) const PARTS: usize = 4;
/// A part is sent on when it has this many rows, or this many bytes.
pub(super) const PART_ROWS: usize = 1000;
const PART_BYTES: usize = 1 << 20;

/// Rows that are not sent yet. All calls say whether anybody reads any more.
#[derive(Debug)]
pub(super) struct Parts {
    reader: mpsc::Sender<Result<Answer>>,
    rows: Vec<Vec<Cell>>,
    bytes: usize,
}

impl Parts {
    /// Nothing yet.
    pub fn new(reader: mpsc::Sender<Result<Answer>>) -> Self {
        Self { reader, rows: Vec::new(), bytes: 0 }
    }

    /// Tells the names of the columns.
    pub async fn columns(&mut self, columns: Vec<String>) -> bool {
        self.reader.send(Ok(Answer::Columns(columns))).await.is_ok()
    }

    /// Adds a row.
    pub async fn row(&mut self, cells: Vec<Cell>) -> bool {
        self.bytes += cells.iter().map(bytes).sum::<usize>();
        self.rows.push(cells);
        if self.rows.len() < PART_ROWS && self.bytes < PART_BYTES {
            return true;
        }
        self.send().await
    }

    /// Sends what is left.
    pub async fn end(mut self) -> bool {
        self.rows.is_empty() || self.send().await
    }

    async fn send(&mut self) -> bool {
        self.bytes = 0;
        self.reader.send(Ok(Answer::Rows(std::mem::take(&mut self.rows)))).await.is_ok()
    }
}

fn bytes(cell: &Cell) -> usize {
    match cell {
        Cell::Null | Cell::Integer(_) | Cell::Real(_) => 16,
        Cell::Text(text) => 16 + text.len(),
        Cell::Blob(blob) => 16 + blob.len(),
    }
}

//! Tables of any length in bounded memory.

use std::io::{self, Write};

use super::output_error;
use crate::error::Error;

/// Rows that decide how wide the columns are; later rows follow them.
const MEASURED: usize = 500;

/// A table with columns that are as wide as the first rows need.
pub struct Table<W: Write> {
    out: W,
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl Table<io::BufWriter<io::StdoutLock<'static>>> {
    /// A table on standard output.
    pub fn on_stdout(columns: &[&str]) -> Self {
        Self::new(io::BufWriter::new(io::stdout().lock()), columns)
    }
}

impl<W: Write> Table<W> {
    /// A table with these headings.
    pub fn new(out: W, columns: &[&str]) -> Self {
        let heading = columns.iter().map(|name| one_line(name)).collect();
        Self { out, waiting: vec![heading], widths: None }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) -> Result<(), Error> {
        let cells: Vec<String> = cells.iter().map(|cell| one_line(cell)).collect();
        match &self.widths {
            Some(widths) => write_row(&mut self.out, widths, &cells),
            None => {
                self.waiting.push(cells);
                if self.waiting.len() > MEASURED { self.flush() } else { Ok(()) }
            }
        }
    }

    /// Writes what is left.
    pub fn finish(mut self) -> Result<(), Error> {
        self.flush()?;
        self.out.flush().map_err(|error| output_error(&error))
    }

    fn flush(&mut self) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.waiting);
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths = self.widths.get_or_insert_with(|| (0..columns).map(width).collect());
        for row in &rows {
            write_row(&mut self.out, widths, row)?;
        }
        Ok(())
    }
}

fn write_row(out: &mut impl Write, widths: &[usize], cells: &[String]) -> Result<(), Error> {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let width = widths.get(index).copied().unwrap_or(0);
        line.push_str(&format!("{cell:width$}  "));
    }
    writeln!(out, "{}", line.trim_end()).map_err(|error| output_error(&error))
}

/// Text that stays on its line and cannot steer the terminal.
pub fn one_line(cell: &str) -> String {
    if !cell.contains(char::is_control) {
        return cell.to_owned();
    }
    let escape = |letter: char| {
        if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() }
    };
    cell.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_control_characters_are_escaped() {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out, &["id", "prompt"]);
        table.row(vec!["1234".to_owned(), "a\nb\u{1b}".to_owned()]).unwrap();
        table.row(vec!["5".to_owned(), String::new()]).unwrap();
        table.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id    prompt\n1234  a\\nb\\u{1b}\n5\n");
    }

    #[test]
    fn rows_after_the_measured_ones_are_written_too() {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out, &["n"]);
        for number in 0..2 * MEASURED {
            table.row(vec![number.to_string()]).unwrap();
        }
        table.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1 + 2 * MEASURED);
        assert!(text.ends_with("\n999\n"));
    }
}

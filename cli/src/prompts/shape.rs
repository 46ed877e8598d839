//! The columns of a list with what becomes of each, and how a row is made of its values.

use sanafarm_proto::v1::PromptRow;

use super::columns::{self, Chosen, Field, Use};
use super::limits::MAX_COLUMNS;
use super::row;
use super::value::{Value, write_string};

/// Columns in their order.
#[derive(Debug)]
pub struct Shape {
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    used: Use,
    /// The name as a key in a JSON object, with its colon.
    key: String,
}

impl Shape {
    /// The columns of a list that names them once, at its start: all that the user named must be there.
    pub fn of_header(names: Vec<String>, chosen: &Chosen) -> Result<Self, String> {
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        for (index, name) in borrowed.iter().enumerate() {
            if borrowed[..index].contains(name) {
                return Err(format!("two columns are called `{name}`"));
            }
        }
        let shape = Self::of_object(&borrowed, chosen)?;
        if let Some(name) = chosen.all().find(|name| !columns::contains(&borrowed, name)) {
            return Err(columns::missing(name, &borrowed));
        }
        let passed = shape.passed().count();
        if passed > MAX_COLUMNS {
            return Err(format!("{passed} columns to pass through; the limit is {MAX_COLUMNS}"));
        }
        Ok(shape)
    }

    /// The columns of a row that names its own.
    pub fn of_object(names: &[&str], chosen: &Chosen) -> Result<Self, String> {
        let uses = columns::assign(names, chosen);
        if !uses.contains(&Use::Field(Field::Prompt)) {
            return Err(columns::missing_prompt(names, chosen));
        }
        let column = |(name, used): (&&str, Use)| {
            let mut key = String::with_capacity(name.len() + 3);
            write_string(name, &mut key);
            key.push(':');
            Column { name: (*name).to_owned(), used, key }
        };
        Ok(Self { columns: names.iter().zip(uses).map(column).collect() })
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// What becomes of each column.
    pub fn uses(&self) -> impl Iterator<Item = Use> {
        self.columns.iter().map(|column| column.used)
    }

    /// Whether these are its columns.
    pub fn is_of<'n>(&self, names: impl ExactSizeIterator<Item = &'n str>) -> bool {
        names.len() == self.len() && names.zip(&self.columns).all(|(name, column)| name == column.name)
    }

    /// Columns that are passed through.
    pub fn passed(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| column.used == Use::Pass).map(|column| column.name.as_str())
    }

    /// The row of these values, one for each column.
    pub fn row<'v>(
        &self,
        line: u64,
        values: impl IntoIterator<Item = Value<'v>>,
    ) -> Result<PromptRow, String> {
        let mut row = PromptRow { line, ..PromptRow::default() };
        let mut extra = String::new();
        for (column, value) in self.columns.iter().zip(values) {
            match column.used {
                Use::Field(field) => row::set(&mut row, field, &column.name, value)?,
                Use::Pass => {
                    extra.push(if extra.is_empty() { '{' } else { ',' });
                    extra.push_str(&column.key);
                    value.write_json(&mut extra);
                }
                Use::Drop => {}
            }
        }
        if !extra.is_empty() {
            extra.push('}');
        }
        row.extra = extra;
        row::check(&row)?;
        Ok(row)
    }
}

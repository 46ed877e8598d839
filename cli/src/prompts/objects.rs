//! Rows that name their own columns: JSON objects, or plain strings.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use sanafarm_proto::v1::PromptRow;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::columns::Chosen;
use super::limits::MAX_COLUMNS;
use super::row;
use super::shape::Shape;
use super::value::Value;

/// What a list has where a row should be.
#[derive(Debug)]
pub enum Item<'a> {
    /// Names and values in their order.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    /// The prompt alone.
    Prompt(String),
    /// Something else, in words.
    Other(&'static str),
}

/// Makes rows of items, and remembers what holds for the whole list.
pub struct Objects {
    chosen: Chosen,
    /// Columns of the row before: mostly the next row has the same.
    last: Option<Shape>,
    /// Columns that were passed through so far.
    passed: HashSet<String>,
}

impl Objects {
    /// Before the first row.
    pub fn new(chosen: Chosen) -> Self {
        Self { chosen, last: None, passed: HashSet::new() }
    }

    /// The row that an item says.
    pub fn row(&mut self, line: u64, item: Item<'_>) -> Result<PromptRow, String> {
        let entries = match item {
            Item::Prompt(prompt) => {
                let row = PromptRow { prompt, line, ..PromptRow::default() };
                return row::check(&row).map(|()| row);
            }
            Item::Other(kind) => return Err(format!("expected an object or a string, found {kind}")),
            Item::Object(entries) => entries,
        };
        if let Some(shape) = &self.last
            && shape.is_of(entries.iter().map(|(name, _)| name.as_ref()))
        {
            return shape.row(line, entries.into_iter().map(|(_, value)| value));
        }
        let entries = distinct(entries);
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_ref()).collect();
        let shape = Shape::of_object(&names, &self.chosen)?;
        let row = shape.row(line, entries.into_iter().map(|(_, value)| value))?;
        let fresh: Vec<String> =
            shape.passed().filter(|name| !self.passed.contains(*name)).map(str::to_owned).collect();
        if self.passed.len() + fresh.len() > MAX_COLUMNS {
            return Err(format!("more than {MAX_COLUMNS} different columns to pass through in one list"));
        }
        self.passed.extend(fresh);
        self.last = Some(shape);
        Ok(row)
    }
}

/// A name that is given twice has its last value, as everywhere in JSON.
fn distinct<'a>(entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Vec<(Cow<'a, str>, Value<'a>)> {
    let mut kept: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        match kept.iter_mut().find(|(other, _)| *other == name) {
            Some(entry) => entry.1 = value,
            None => kept.push((name, value)),
        }
    }
    kept
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Item::Prompt(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Item::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Item::Other("a boolean"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Item::Other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Item::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Item::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(8);
        while let Some(Name(name)) = object.next_key()? {
            entries.push((name, object.next_value()?));
        }
        Ok(Item::Object(entries))
    }
}

/// A key; serde's own `Cow` always copies.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

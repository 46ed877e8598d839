//! Values of a row as the list gives them: typed where the format has types.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A cell of a CSV or TSV file, which has no type: empty means that nothing is given.
    Cell(Cow<'a, str>),
    /// Nothing is given.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(Cow<'a, str>),
    /// An array or an object.
    Nested(Box<serde_json::Value>),
}

impl<'a> Value<'a> {
    /// The text; `None` when nothing is given.
    pub fn text(self, column: &str) -> Result<Option<String>, String> {
        match self {
            Self::Cell(text) => Ok(filled(&text).then(|| text.into_owned())),
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text.into_owned())),
            other => Err(format!("`{column}` is {}, expected a string", other.kind())),
        }
    }

    /// The row's own name. It may be a number: many lists count their rows.
    pub fn id(self, column: &str) -> Result<Option<String>, String> {
        match self {
            Self::Number(number) => Ok(Some(number.to_string())),
            other => other.text(column),
        }
    }

    /// A whole number within `range`; `None` when nothing is given.
    pub fn whole(&self, column: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
        let number = match self {
            Self::Cell(text) if !filled(text) => return Ok(None),
            Self::Null => return Ok(None),
            Self::Cell(text) => {
                let text = text.trim();
                text.parse::<u64>().ok().or_else(|| text.parse::<f64>().ok().and_then(whole_number))
            }
            Self::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole_number)),
            other => return Err(format!("`{column}` is {}, expected a whole number", other.kind())),
        };
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(_) | None => Err(format!(
                "`{column}` is {self}, expected a whole number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    /// A number within `range`; `None` when nothing is given.
    pub fn real(&self, column: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, String> {
        let number = match self {
            Self::Cell(text) if !filled(text) => return Ok(None),
            Self::Null => return Ok(None),
            Self::Cell(text) => text.trim().parse::<f64>().ok(),
            Self::Number(number) => number.as_f64(),
            other => return Err(format!("`{column}` is {}, expected a number", other.kind())),
        };
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(_) | None => Err(format!(
                "`{column}` is {self}, expected a number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    /// Appends the value as JSON.
    pub fn write_json(&self, json: &mut String) {
        match self {
            Self::Null => json.push_str("null"),
            Self::Bool(true) => json.push_str("true"),
            Self::Bool(false) => json.push_str("false"),
            Self::Number(number) => json.push_str(&number.to_string()),
            Self::Cell(text) | Self::Text(text) => write_string(text, json),
            Self::Nested(value) => json.push_str(&value.to_string()),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Cell(_) | Self::Text(_) => "a string",
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Nested(value) if value.is_array() => "an array",
            Self::Nested(_) => "an object",
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cell(text) => write!(formatter, "`{}`", text.trim()),
            other => {
                let mut json = String::new();
                other.write_json(&mut json);
                formatter.write_str(&json)
            }
        }
    }
}

/// Appends a JSON string.
pub fn write_string(text: &str, json: &mut String) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// A real number; one that is not finite says nothing.
pub fn real_number(number: f64) -> Value<'static> {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn filled(text: &str) -> bool {
    !text.trim().is_empty()
}

/// Spreadsheets and data frames write 512 as 512.0.
fn whole_number(number: f64) -> Option<u64> {
    let exact = number.fract() == 0.0 && (0.0..9e15).contains(&number);
    exact.then_some(number as u64)
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(real_number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Self::Value, A::Error> {
        let array = serde_json::Value::deserialize(SeqAccessDeserializer::new(array))?;
        Ok(Value::Nested(Box::new(array)))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        let object = serde_json::Value::deserialize(MapAccessDeserializer::new(object))?;
        Ok(Value::Nested(Box::new(object)))
    }
}

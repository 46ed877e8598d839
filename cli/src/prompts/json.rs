//! JSON lists: an array of rows, or the captions of COCO. Both are read as they stream in.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::columns::Chosen;
use super::lines::MAX_LINE;
use super::objects::{Item, Objects};
use super::value::Value;
use super::{Error, Sink};

/// Bytes that are read at a time.
const BUFFER: usize = 64 << 10;

/// Hands out the rows of a document, numbered from 1.
pub fn read(reader: impl Read, list: &str, chosen: &Chosen, sink: &mut Sink<'_>) -> Result<(), Error> {
    let limit = Limit { left: Cell::new(usize::MAX) };
    let mut rows = Rows {
        list,
        objects: Objects::new(chosen.clone()),
        sink,
        limit: &limit,
        row: 0,
        files: HashMap::new(),
        stopped: false,
        foreign: None,
    };
    let reader = BufReader::with_capacity(BUFFER, Limited { reader, limit: &limit });
    let mut document = serde_json::Deserializer::from_reader(reader);
    let read = document.deserialize_any(Document { rows: &mut rows });
    if rows.stopped {
        return Ok(());
    }
    if let Some(what) = rows.foreign {
        return Err(Error::List { list: list.to_owned(), what });
    }
    limit.lift();
    read.and_then(|()| document.end()).map_err(|error| match error.classify() {
        Category::Io => Error::Read { list: list.to_owned(), source: error.into() },
        Category::Syntax | Category::Data | Category::Eof => {
            Error::List { list: list.to_owned(), what: format!("bad JSON: {error}") }
        }
    })
}

/// What is known while a document is read.
struct Rows<'r, 's> {
    list: &'r str,
    objects: Objects,
    sink: &'r mut Sink<'s>,
    limit: &'r Limit,
    /// Number of the row read last.
    row: u64,
    /// File names of COCO's images by their id.
    files: HashMap<Box<str>, Box<str>>,
    /// The sink wants no more.
    stopped: bool,
    /// The document is none that holds rows: why.
    foreign: Option<String>,
}

impl Rows<'_, '_> {
    /// Takes the elements of an array as rows.
    fn take<'de, A: SeqAccess<'de>>(&mut self, mut array: A) -> Result<(), A::Error> {
        loop {
            self.limit.one_row();
            let Some(mut item) = array.next_element::<Item<'de>>()? else { break };
            self.row += 1;
            self.add_file_name(&mut item);
            let row = self.objects.row(self.row, item);
            let row = row.map_err(|what| Error::Row { list: self.list.to_owned(), row: self.row, what });
            if let ControlFlow::Break(()) = (self.sink)(row) {
                self.stopped = true;
                return Err(A::Error::custom("no more rows are wanted"));
            }
        }
        self.limit.lift();
        Ok(())
    }

    /// A caption of COCO names its image by id only.
    fn add_file_name(&self, item: &mut Item<'_>) {
        let Item::Object(entries) = item else { return };
        if self.files.is_empty() || find(entries, "file_name").is_some() {
            return;
        }
        let file = find(entries, "image_id").and_then(id_text).and_then(|id| self.files.get(id.as_str()));
        if let Some(file) = file {
            let file = Value::Text(file.clone().into_string().into());
            entries.push((Cow::Borrowed("file_name"), file));
        }
    }

    /// Remembers the file names of images.
    fn learn_images<'de, A: SeqAccess<'de>>(&mut self, mut array: A) -> Result<(), A::Error> {
        loop {
            self.limit.one_row();
            let Some(image) = array.next_element::<Item<'de>>()? else { break };
            self.learn_image(&image);
        }
        self.limit.lift();
        Ok(())
    }

    fn learn_image(&mut self, image: &Item<'_>) {
        let Item::Object(entries) = image else { return };
        let id = find(entries, "id").and_then(id_text);
        if let (Some(id), Some(Value::Text(file))) = (id, find(entries, "file_name")) {
            self.files.insert(id.into(), file.as_ref().into());
        }
    }

    fn refuse<E: serde::de::Error>(&mut self, found: &str) -> E {
        let what = format!(
            "a .json list is an array of rows, or an object of COCO with `annotations`; found {found}; for one \
             object a line say --list-format jsonl"
        );
        self.foreign = Some(what);
        E::custom("no list")
    }
}

fn find<'e, 'a>(entries: &'e [(Cow<'a, str>, Value<'a>)], wanted: &str) -> Option<&'e Value<'a>> {
    entries.iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
}

/// Ids are numbers, in some data sets text.
fn id_text(id: &Value<'_>) -> Option<String> {
    match id {
        Value::Number(number) => Some(number.to_string()),
        Value::Text(text) => Some(text.clone().into_owned()),
        Value::Cell(_) | Value::Null | Value::Bool(_) | Value::Nested(_) => None,
    }
}

/// The whole document.
struct Document<'d, 'r, 's> {
    rows: &'d mut Rows<'r, 's>,
}

impl<'de> Visitor<'de> for Document<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of rows or an object with `annotations`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        self.rows.take(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let (mut names, mut taken) = (Vec::new(), false);
        loop {
            self.rows.limit.one_row();
            let Some(name) = object.next_key::<String>()? else { break };
            self.rows.limit.lift();
            match name.as_str() {
                "annotations" => {
                    object.next_value_seed(Array { rows: &mut *self.rows, kind: Kind::Annotations })?;
                    taken = true;
                }
                // Later they come too late for the rows that are already handed out.
                "images" if !taken => {
                    object.next_value_seed(Array { rows: &mut *self.rows, kind: Kind::Images })?;
                }
                _ => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
            if names.len() < 12 {
                names.push(format!("`{name}`"));
            }
        }
        if taken {
            return Ok(());
        }
        let found = if names.is_empty() { "an empty object".to_owned() } else { names.join(", ") };
        Err(self.rows.refuse(&found))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(self.rows.refuse("a string"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(self.rows.refuse("null"))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(self.rows.refuse("a boolean"))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(self.rows.refuse("a number"))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(self.rows.refuse("a number"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.rows.refuse("a number"))
    }
}

/// An array of COCO's object.
struct Array<'d, 'r, 's> {
    rows: &'d mut Rows<'r, 's>,
    kind: Kind,
}

enum Kind {
    Annotations,
    Images,
}

impl<'de> DeserializeSeed<'de> for Array<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Array<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<(), A::Error> {
        match self.kind {
            Kind::Annotations => self.rows.take(array),
            Kind::Images => self.rows.learn_images(array),
        }
    }
}

/// How many more bytes may be read: no row is ever longer than a line may be.
struct Limit {
    left: Cell<usize>,
}

impl Limit {
    /// A row begins. Part of what follows it is in the buffer already, and part will be.
    fn one_row(&self) {
        self.left.set(MAX_LINE + BUFFER);
    }

    /// What comes now is not kept.
    fn lift(&self) {
        self.left.set(usize::MAX);
    }
}

struct Limited<'l, R> {
    reader: R,
    limit: &'l Limit,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.limit.left.get();
        if left == 0 {
            let what = format!("a row longer than {} KiB", MAX_LINE / 1024);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        let read = self.reader.read(buffer)?;
        self.limit.left.set(left.saturating_sub(read));
        Ok(read)
    }
}

//! Rows of a manifest, one after the other.

use std::fs::File;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use sanafarm_proto::v1::{Image, ImageState};

/// The columns that are read.
const COLUMNS: [&str; 6] = ["job_id", "index", "state", "image_name", "sha256", "archive"];

/// What a row says of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub job: String,
    pub index: u64,
    pub is_done: bool,
    pub name: String,
    /// Empty of an image without a picture.
    pub sha256: String,
    /// The tar that holds it; empty in the layout of files.
    pub archive: String,
}

impl Row {
    /// In what it differs from the history of its image, which is of the same job.
    pub fn difference(&self, image: &Image) -> Option<&'static str> {
        let is_done = image.state() == ImageState::Done;
        match self {
            row if row.index != image.index => Some("index"),
            row if row.is_done != is_done => Some("state"),
            row if row.name != image.object => Some("image_name"),
            row if is_done && row.sha256 != image.sha256 => Some("sha256"),
            row if is_done && row.archive != image.archive => Some("archive"),
            _ => None,
        }
    }
}

/// Reads a manifest or a part of one. Blocks.
pub struct Rows {
    rows: RowIter<'static>,
}

impl Rows {
    pub fn open(file: File) -> Result<Self, ParquetError> {
        let reader = SerializedFileReader::new(file)?;
        let schema = reader.metadata().file_metadata().schema();
        let field = |name: &str| {
            let found = schema.get_fields().iter().find(|field| field.name() == name).cloned();
            found.ok_or_else(|| ParquetError::General(format!("it has no column {name}")))
        };
        let fields = COLUMNS.iter().map(|name| field(name)).collect::<Result<Vec<_>, _>>()?;
        let wanted = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(wanted))?;
        Ok(Self { rows })
    }
}

impl Iterator for Rows {
    type Item = Result<Row, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.rows.next()?.map(|fields| {
            let mut row = Row::default();
            for (name, value) in fields.get_column_iter() {
                let text = || if let Field::Str(text) = value { text.clone() } else { String::new() };
                match name.as_str() {
                    "job_id" => row.job = text(),
                    "index" => row.index = if let Field::Long(index) = value { *index as u64 } else { 0 },
                    "state" => row.is_done = text() == "done",
                    "image_name" => row.name = text(),
                    "sha256" => row.sha256 = text(),
                    _ => row.archive = text(),
                }
            }
            row
        }))
    }
}

//! `manifest.parquet` and its parts.

use std::io::{BufWriter, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use super::column::{COLUMNS, Kind, Value};
use super::line::{Line, free_names};
use crate::store::records::Job;

/// Writes one row group a page.
pub(super) struct TableWriter<'a, F: Write + Send> {
    file: SerializedFileWriter<BufWriter<F>>,
    columns: &'a [String],
}

impl<'a, F: Write + Send> TableWriter<'a, F> {
    pub fn new(file: F, columns: &'a [String]) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("sanafarm {}", env!("CARGO_PKG_VERSION")))
            .build();
        let file = SerializedFileWriter::new(
            BufWriter::new(file),
            Arc::new(schema(columns)?),
            Arc::new(properties),
        )?;
        Ok(Self { file, columns })
    }

    pub fn write(&mut self, job: &Job, lines: &[Line]) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        let mut number = 0;
        while let Some(writer) = group.next_column()? {
            match COLUMNS.get(number) {
                Some(column) => {
                    let values = lines.iter().map(|line| (column.value)(job, line));
                    write_column(writer, column.kind, values)?;
                }
                None => {
                    let name = &self.columns[number - COLUMNS.len()];
                    write_column(writer, Kind::Text, lines.iter().map(|line| line.extra_text(name).into()))?;
                }
            }
            number += 1;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file and gives it back.
    pub fn finish(self) -> Result<F> {
        let file = self.file.into_inner()?;
        Ok(file.into_inner().map_err(std::io::IntoInnerError::into_error)?)
    }
}

fn schema(columns: &[String]) -> Result<Type> {
    let own: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let extra = free_names(columns, &own);
    let fields = COLUMNS
        .iter()
        .map(|column| field(column.name, column.kind))
        .chain(extra.iter().map(|name| field(name, Kind::Text)))
        .collect::<Result<Vec<_>>>()?;
    Type::group_type_builder("images").with_fields(fields).build()
}

fn field(name: &str, kind: Kind) -> Result<Arc<Type>> {
    let (physical, logical) = match kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Integer => (Physical::INT64, None),
        Kind::Real => (Physical::DOUBLE, None),
        Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MILLIS))),
    };
    let field = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(field))
}

fn write_column(
    writer: SerializedColumnWriter<'_>,
    kind: Kind,
    values: impl Iterator<Item = Value>,
) -> Result<()> {
    match kind {
        Kind::Text => write_values::<ByteArrayType>(writer, values, |value| match value {
            Value::Text(text) => Some(ByteArray::from(text.into_bytes())),
            Value::Null | Value::Integer(_) | Value::Real(_) => None,
        }),
        Kind::Integer | Kind::Time => write_values::<Int64Type>(writer, values, |value| match value {
            Value::Integer(number) => Some(number),
            Value::Null | Value::Text(_) | Value::Real(_) => None,
        }),
        Kind::Real => write_values::<DoubleType>(writer, values, |value| match value {
            Value::Real(number) => Some(number),
            Value::Null | Value::Text(_) | Value::Integer(_) => None,
        }),
    }
}

fn write_values<T: DataType>(
    mut writer: SerializedColumnWriter<'_>,
    values: impl Iterator<Item = Value>,
    read: impl Fn(Value) -> Option<T::T>,
) -> Result<()> {
    let mut present = Vec::new();
    let mut levels = Vec::new();
    for value in values {
        let value = read(value);
        levels.push(i16::from(value.is_some()));
        present.extend(value);
    }
    writer.typed::<T>().write_batch(&present, Some(&levels), None)?;
    writer.close()
}

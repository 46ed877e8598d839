//! The cells of one Parquet column, some rows at a time.

use std::borrow::Cow;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{
    BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
    Int96, Int96Type,
};
use ::parquet::errors::ParquetError;
use ::parquet::schema::types::ColumnDescriptor;
use jiff::Timestamp;
use jiff::civil::Date;

use super::Kind;
use crate::prompts::value::{Value, real_number};

/// A column of a row group.
pub struct Column {
    name: String,
    kind: Kind,
    /// Levels of a value that is there; 0 for a column that has no nulls.
    present: i16,
    cells: Cells,
    /// A level for each row of the batch, when there may be nulls.
    levels: Vec<i16>,
    /// The next row of the batch.
    row: usize,
    /// The next value; nulls have none.
    value: usize,
}

/// The reader of a column with the values of the batch.
enum Cells {
    Bool(Typed<BoolType>),
    Int32(Typed<Int32Type>),
    Int64(Typed<Int64Type>),
    Int96(Typed<Int96Type>),
    Float(Typed<FloatType>),
    Double(Typed<DoubleType>),
    Bytes(Typed<ByteArrayType>),
    Fixed(Typed<FixedLenByteArrayType>),
}

struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
}

impl Column {
    /// Before the first row of the group.
    pub fn new(
        descriptor: &ColumnDescriptor,
        kind: Kind,
        reader: ColumnReader,
    ) -> Result<Self, ParquetError> {
        let cells = match reader {
            ColumnReader::BoolColumnReader(reader) => Cells::Bool(Typed::new(reader)),
            ColumnReader::Int32ColumnReader(reader) => Cells::Int32(Typed::new(reader)),
            ColumnReader::Int64ColumnReader(reader) => Cells::Int64(Typed::new(reader)),
            ColumnReader::Int96ColumnReader(reader) => Cells::Int96(Typed::new(reader)),
            ColumnReader::FloatColumnReader(reader) => Cells::Float(Typed::new(reader)),
            ColumnReader::DoubleColumnReader(reader) => Cells::Double(Typed::new(reader)),
            ColumnReader::ByteArrayColumnReader(reader) => Cells::Bytes(Typed::new(reader)),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => Cells::Fixed(Typed::new(reader)),
        };
        let name = descriptor.name().to_owned();
        let present = descriptor.max_def_level();
        Ok(Self { name, kind, present, cells, levels: Vec::new(), row: 0, value: 0 })
    }

    /// Decodes the next `rows` rows.
    pub fn decode(&mut self, rows: usize) -> Result<(), ParquetError> {
        (self.row, self.value) = (0, 0);
        self.levels.clear();
        let levels = &mut self.levels;
        let read = match &mut self.cells {
            Cells::Bool(cells) => cells.decode(rows, levels),
            Cells::Int32(cells) => cells.decode(rows, levels),
            Cells::Int64(cells) => cells.decode(rows, levels),
            Cells::Int96(cells) => cells.decode(rows, levels),
            Cells::Float(cells) => cells.decode(rows, levels),
            Cells::Double(cells) => cells.decode(rows, levels),
            Cells::Bytes(cells) => cells.decode(rows, levels),
            Cells::Fixed(cells) => cells.decode(rows, levels),
        }?;
        if read != rows {
            return Err(ParquetError::EOF(format!("column `{}` has fewer rows than its group", self.name)));
        }
        Ok(())
    }

    /// The cell of the next row of the batch.
    pub fn next(&mut self) -> Result<Value<'_>, String> {
        let row = self.row;
        self.row += 1;
        if self.present > 0 && self.levels.get(row).is_none_or(|level| *level < self.present) {
            return Ok(Value::Null);
        }
        let value = self.value;
        self.value += 1;
        let kind = self.kind;
        let cell = match &self.cells {
            Cells::Bool(cells) => cells.values.get(value).map(|value| Ok(Value::Bool(*value))),
            Cells::Int32(cells) => cells.values.get(value).map(|value| match kind {
                Kind::Unsigned => Ok(Value::Number(value.cast_unsigned().into())),
                _ => integer(kind, i64::from(*value)),
            }),
            Cells::Int64(cells) => cells.values.get(value).map(|value| match kind {
                Kind::Unsigned => Ok(Value::Number(value.cast_unsigned().into())),
                _ => integer(kind, *value),
            }),
            Cells::Int96(cells) => {
                cells.values.get(value).map(|value| integer(kind, Int96::to_millis(value)))
            }
            Cells::Float(cells) => cells.values.get(value).map(|value| Ok(single(*value))),
            Cells::Double(cells) => cells.values.get(value).map(|value| Ok(real_number(*value))),
            Cells::Bytes(cells) => cells.values.get(value).map(|value| bytes(kind, value.data())),
            Cells::Fixed(cells) => cells.values.get(value).map(|value| bytes(kind, value.data())),
        };
        let name = &self.name;
        cell.unwrap_or_else(|| Err("has fewer values than rows".to_owned()))
            .map_err(|what| format!("column `{name}` {what}"))
    }
}

impl<T: DataType> Typed<T> {
    fn new(reader: ColumnReaderImpl<T>) -> Self {
        Self { reader, values: Vec::new() }
    }

    /// How many rows were there to be decoded.
    fn decode(&mut self, rows: usize, levels: &mut Vec<i16>) -> Result<usize, ParquetError> {
        self.values.clear();
        let mut read = 0;
        // A reader may stop short at the end of a page.
        while read < rows {
            let (more, _, _) = self.reader.read_records(rows - read, Some(levels), None, &mut self.values)?;
            if more == 0 {
                break;
            }
            read += more;
        }
        Ok(read)
    }
}

fn integer(kind: Kind, value: i64) -> Result<Value<'static>, String> {
    match kind {
        Kind::Date => {
            let days = jiff::Span::new().try_days(value);
            let date = days.and_then(|days| Date::constant(1970, 1, 1).checked_add(days));
            date.map(|date| Value::Text(date.to_string().into())).map_err(|_| no_time(value))
        }
        Kind::Time { step, utc } => {
            let time = Timestamp::from_nanosecond(i128::from(value) * i128::from(step));
            let text = time.map_err(|_| no_time(value))?.to_string();
            // What is not in UTC has no zone at all.
            let text = if utc { text } else { text.trim_end_matches('Z').to_owned() };
            Ok(Value::Text(text.into()))
        }
        Kind::Decimal(scale) => Ok(decimal(value.into(), scale)),
        Kind::Plain | Kind::Unsigned | Kind::Text => Ok(Value::Number(value.into())),
    }
}

fn no_time(value: i64) -> String {
    format!("holds {value}, which is no time of any calendar")
}

fn bytes(kind: Kind, value: &[u8]) -> Result<Value<'_>, String> {
    if let Kind::Decimal(scale) = kind {
        let sign = if value.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 16];
        let Some(start) = wide.len().checked_sub(value.len()) else {
            return Err("holds a decimal number of more than 128 bits".to_owned());
        };
        wide[start..].copy_from_slice(value);
        return Ok(decimal(i128::from_be_bytes(wide), scale));
    }
    let text = str::from_utf8(value);
    text.map(|text| Value::Text(Cow::Borrowed(text))).map_err(|_| "holds bytes that are no UTF-8".to_owned())
}

/// The number that a reader sees in print, and not the f64 next to its f32.
fn single(value: f32) -> Value<'static> {
    real_number(value.to_string().parse().unwrap_or(f64::from(value)))
}

/// A number while an f64 holds all of its digits, else text.
fn decimal(unscaled: i128, scale: u32) -> Value<'static> {
    let sign = if unscaled < 0 { "-" } else { "" };
    let scale = scale as usize;
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 {
        return match i64::try_from(unscaled) {
            Ok(number) => Value::Number(number.into()),
            Err(_) => Value::Text(format!("{sign}{whole}").into()),
        };
    }
    let text = format!("{sign}{whole}.{fraction}");
    match text.parse() {
        Ok(number) if digits.len() <= 15 => real_number(number),
        Ok(_) | Err(_) => Value::Text(text.into()),
    }
}

//! Parquet lists: flat columns, read some rows at a time.
//!
//! - `kind`: what the cells of a column are
//! - `column`: the cells of one column

mod column;
mod kind;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::schema::types::SchemaDescriptor;

use super::columns::{Chosen, Use};
use super::shape::Shape;
use super::value::Value;
use super::{Error, Sink};

use column::Column;
use kind::Kind;

/// Rows that are decoded at a time.
const BATCH: usize = 1024;

/// Hands out the rows of a file, numbered from 1.
pub fn read(file: File, list: &str, chosen: &Chosen, sink: &mut Sink<'_>) -> Result<(), Error> {
    let broken = |error: ParquetError| Error::List {
        list: list.to_owned(),
        what: format!("no Parquet file that can be read: {error}"),
    };
    let header = |what| Error::Header { place: list.to_owned(), what };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let names = schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    let shape = Shape::of_header(names, chosen).map_err(header)?;
    let wanted = wanted(schema, &shape).map_err(|what| Error::List { list: list.to_owned(), what })?;
    let mut rows = 0;
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number).map_err(broken)?;
        let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
        let mut columns = open(group.as_ref(), &wanted).map_err(broken)?;
        while left > 0 {
            let batch = left.min(BATCH);
            for column in columns.iter_mut().flatten() {
                decode(column, batch).map_err(broken)?;
            }
            for _ in 0..batch {
                rows += 1;
                let values: Result<Vec<Value<'_>>, String> = columns
                    .iter_mut()
                    .map(|column| column.as_mut().map_or(Ok(Value::Null), Column::next))
                    .collect();
                let row = values.and_then(|values| shape.row(rows, values));
                let row = row.map_err(|what| Error::Row { list: list.to_owned(), row: rows, what });
                if sink(row).is_break() {
                    return Ok(());
                }
            }
            left -= batch;
        }
    }
    Ok(())
}

/// Decodes the next rows. The decoders of a damaged page may panic.
fn decode(column: &mut Column, rows: usize) -> Result<(), ParquetError> {
    // After a panic the column is not used again.
    let decoded = catch_unwind(AssertUnwindSafe(|| column.decode(rows)));
    decoded.unwrap_or_else(|_| Err(ParquetError::General("a page is damaged".to_owned())))
}

/// A column that is read.
struct Wanted {
    /// Its number among the leaves of the schema.
    leaf: usize,
    kind: Kind,
}

/// For each column where it is and what its cells are; `None` for one that is left out.
fn wanted(schema: &SchemaDescriptor, shape: &Shape) -> Result<Vec<Option<Wanted>>, String> {
    let fields = schema.root_schema().get_fields();
    let mut wanted = Vec::with_capacity(fields.len());
    for (root, (field, used)) in fields.iter().zip(shape.uses()).enumerate() {
        if used == Use::Drop {
            wanted.push(None);
            continue;
        }
        let name = field.name();
        let kind = Kind::of(field).map_err(|what| {
            format!("column `{name}` holds {what}; leave it out with --drop-column {name}")
        })?;
        // A flat column is one leaf.
        let leaf = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == root);
        let leaf = leaf.ok_or_else(|| format!("column `{name}` is not in the file's schema"))?;
        wanted.push(Some(Wanted { leaf, kind }));
    }
    Ok(wanted)
}

fn open(group: &dyn RowGroupReader, wanted: &[Option<Wanted>]) -> Result<Vec<Option<Column>>, ParquetError> {
    let open = |wanted: &Wanted| {
        let metadata = group.metadata().column(wanted.leaf);
        let places = [metadata.data_page_offset(), metadata.compressed_size()];
        // The reader takes this for granted.
        if places.into_iter().chain(metadata.dictionary_page_offset()).any(|place| place < 0) {
            return Err(ParquetError::General("a column lies at a negative place".to_owned()));
        }
        let descriptor = metadata.column_descr_ptr();
        Column::new(&descriptor, wanted.kind, group.get_column_reader(wanted.leaf)?)
    };
    wanted.iter().map(|wanted| wanted.as_ref().map(open).transpose()).collect()
}

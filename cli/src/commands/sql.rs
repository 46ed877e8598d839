//! `sanafarm sql`: ask the history.

use std::io;

use sanafarm_proto::v1::cell::Value as CellValue;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::query_response::Part;
use sanafarm_proto::v1::{Cell, QueryRequest, Row};
use serde_json::{Map, Value, json};

use crate::args::SqlArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::printer::{Printer, Table, output_error};

/// Runs one statement and prints its rows as they come.
pub async fn run(args: SqlArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = HistoryServiceClient::new(connection.channel.clone());
    let failed = |status| {
        let hint = "one read-only statement over the audit views, such as audit_jobs and audit_images";
        Error::call("ask the history", &status).hint(hint)
    };
    let mut answers = client.query(QueryRequest { sql: args.statement }).await.map_err(failed)?.into_inner();
    let mut sink: Option<Sink> = None;
    while let Some(answer) = answers.message().await.map_err(failed)? {
        match (answer.part, &mut sink) {
            (Some(Part::Columns(columns)), None) => {
                sink = Some(Sink::new(args.csv, args.json, columns.names, printer)?);
            }
            (Some(Part::Rows(rows)), Some(sink)) => {
                rows.rows.into_iter().try_for_each(|row| sink.row(row))?;
            }
            (None, _) => {}
            (Some(Part::Columns(_)), Some(_)) | (Some(Part::Rows(_)), None) => {
                return Err(Error::failure("ask the history").because("columns must come first, and once"));
            }
        }
    }
    if let Some(sink) = sink {
        sink.finish()?;
    }
    drop((client, answers));
    connection.close().await;
    Ok(Exit::Success)
}

/// Where rows go.
enum Sink {
    Table(Table<io::BufWriter<io::StdoutLock<'static>>>),
    Csv(Box<csv::Writer<io::StdoutLock<'static>>>),
    Json(Vec<String>, Printer),
}

impl Sink {
    fn new(csv: bool, json: bool, columns: Vec<String>, printer: &Printer) -> Result<Self, Error> {
        if json {
            return Ok(Self::Json(distinct(columns), printer.clone()));
        }
        if csv {
            let mut writer = csv::Writer::from_writer(io::stdout().lock());
            writer.write_record(&columns).map_err(csv_error)?;
            return Ok(Self::Csv(Box::new(writer)));
        }
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        Ok(Self::Table(Table::on_stdout(&columns)))
    }

    fn row(&mut self, row: Row) -> Result<(), Error> {
        match self {
            Self::Table(table) => table.row(row.cells.into_iter().map(cell_text).collect()),
            Self::Csv(writer) => writer.write_record(row.cells.into_iter().map(cell_text)).map_err(csv_error),
            Self::Json(columns, printer) => {
                let cells = row.cells.into_iter().map(cell_json);
                let object: Map<String, Value> = columns.iter().cloned().zip(cells).collect();
                printer.data(Value::Object(object))
            }
        }
    }

    fn finish(self) -> Result<(), Error> {
        match self {
            Self::Table(table) => table.finish(),
            Self::Csv(mut writer) => writer.flush().map_err(|error| output_error(&error)),
            Self::Json(..) => Ok(()),
        }
    }
}

/// An object has a key once: the second column of a name becomes `name_2`.
fn distinct(columns: Vec<String>) -> Vec<String> {
    let mut keys: Vec<String> = Vec::with_capacity(columns.len());
    for column in &columns {
        let mut key = column.clone();
        let mut count = 1;
        while keys.contains(&key) || (count > 1 && columns.contains(&key)) {
            count += 1;
            key = format!("{column}_{count}");
        }
        keys.push(key);
    }
    keys
}

fn csv_error(error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => output_error(&error),
        other => Error::failure("write a CSV row").because(format!("{other:?}")),
    }
}

/// Null is empty; bytes are hex.
fn cell_text(cell: Cell) -> String {
    match cell.value {
        None => String::new(),
        Some(CellValue::Integer(number)) => number.to_string(),
        Some(CellValue::Real(number)) => number.to_string(),
        Some(CellValue::Text(text)) => text,
        Some(CellValue::Blob(bytes)) => hex::encode(bytes),
    }
}

fn cell_json(cell: Cell) -> Value {
    match cell.value {
        None => Value::Null,
        Some(CellValue::Integer(number)) => json!(number),
        Some(CellValue::Real(number)) => json!(number),
        Some(CellValue::Text(text)) => json!(text),
        Some(CellValue::Blob(bytes)) => json!(hex::encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_their_type_in_json_and_are_plain_in_text() {
        let cell = |value| Cell { value: Some(value) };
        let cells = || {
            vec![
                Cell { value: None },
                cell(CellValue::Integer(7)),
                cell(CellValue::Real(0.5)),
                cell(CellValue::Text("a\"b".to_owned())),
                cell(CellValue::Blob(vec![0, 255])),
            ]
        };
        let texts: Vec<String> = cells().into_iter().map(cell_text).collect();
        assert_eq!(texts, ["", "7", "0.5", "a\"b", "00ff"]);
        let json: Value = cells().into_iter().map(cell_json).collect();
        assert_eq!(json.to_string(), r#"[null,7,0.5,"a\"b","00ff"]"#);
    }

    #[test]
    fn no_column_is_lost_in_an_object() {
        let keys = distinct(["a", "a", "a_2", "b", "a"].map(str::to_owned).to_vec());
        assert_eq!(keys, ["a", "a_3", "a_2", "b", "a_4"]);
    }
}

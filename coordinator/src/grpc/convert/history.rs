//! Answers to SQL.

use sanafarm_proto::v1;

use crate::store::records::{Answer, Cell};

pub(in crate::grpc) fn answer_message(answer: Answer) -> v1::QueryResponse {
    let part = match answer {
        Answer::Columns(names) => v1::query_response::Part::Columns(v1::Columns { names }),
        Answer::Rows(rows) => {
            let rows = rows
                .into_iter()
                .map(|cells| v1::Row { cells: cells.into_iter().map(cell_message).collect() })
                .collect();
            v1::query_response::Part::Rows(v1::Rows { rows })
        }
    };
    v1::QueryResponse { part: Some(part) }
}

fn cell_message(cell: Cell) -> v1::Cell {
    let value = match cell {
        Cell::Null => None,
        Cell::Integer(number) => Some(v1::cell::Value::Integer(number)),
        Cell::Real(number) => Some(v1::cell::Value::Real(number)),
        Cell::Text(text) => Some(v1::cell::Value::Text(text)),
        Cell::Blob(bytes) => Some(v1::cell::Value::Blob(bytes)),
    };
    v1::Cell { value }
}

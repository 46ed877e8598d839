//! Names of objects below an output.

use object_store::path::Path as ObjectPath;

use crate::{Error, staging};

/// Checks that a name is relative and stays below the output.
pub(crate) fn object_path(name: &str) -> Result<ObjectPath, Error> {
    let invalid = |why: &str| Error::Invalid(format!("object name {name:?}: {why}"));
    if name.is_empty() {
        return Err(invalid("it is empty"));
    }
    if name.starts_with('/') || name.ends_with('/') {
        return Err(invalid("it must be relative and must not end in a slash"));
    }
    if name.contains('\\') {
        return Err(invalid("it holds a backslash"));
    }
    if staging::is_staged(name) {
        return Err(invalid("such names are for unfinished files"));
    }
    ObjectPath::parse(name).map_err(|error| invalid(&error.to_string()))
}

/// What kind of file a name promises, as web servers say it.
pub(crate) fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "tar" => "application/x-tar",
        "json" => "application/json",
        "jsonl" => "application/jsonl",
        "txt" | "md" | "csv" => "text/plain; charset=utf-8",
        "parquet" => "application/vnd.apache.parquet",
        _ => "application/octet-stream",
    }
}

//! The SQLite file as any other client reads it.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

/// The first column of all rows; `None` while there is no such database or view yet.
pub fn try_texts(database: &Path, sql: &str) -> Option<Vec<String>> {
    if !database.is_file() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(database).read_only(true);
        let mut connection = options.connect().await.ok()?;
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar::<_, String>(sql).fetch_all(&mut connection).await.ok()
    })
}

/// The first column of all rows.
#[track_caller]
pub fn texts(database: &Path, sql: &str) -> Vec<String> {
    try_texts(database, sql).unwrap_or_else(|| panic!("cannot ask {}: {sql}", database.display()))
}

/// Images with a committed picture; 0 while there is no database.
pub fn done(database: &Path) -> usize {
    committed(database).len()
}

/// Job, index, checksum and time of each committed picture.
pub fn committed(database: &Path) -> Vec<String> {
    let sql = "select job_id || ' ' || image_index || ' ' || sha256 || ' ' || finished_at from audit_images \
               where state = 'done' order by job_id, image_index";
    try_texts(database, sql).unwrap_or_default()
}

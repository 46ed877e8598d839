//! What workers could do.

use sqlx::Row;

use super::SqliteStore;
use super::codec::{json, unsigned};
use crate::domain::id::JobId;
use crate::domain::schedule::Needs;
use crate::store::Result;
use crate::store::records::Demand;

pub(super) async fn demand(store: &SqliteStore) -> Result<Vec<Demand>> {
    let rows = sqlx::query("SELECT * FROM keda_backlog ORDER BY job_id").fetch_all(&store.reader).await?;
    rows.iter()
        .map(|row| {
            let device_kind = row.try_get::<Option<&str>, _>("device_kind")?;
            Ok(Demand {
                job: JobId::from(row.try_get::<String, _>("job_id")?),
                model: row.try_get("model")?,
                needs: Needs {
                    labels: json(row, "labels")?,
                    device_kind: device_kind.map(str::parse).transpose()?,
                    memory_bytes: unsigned(row, "memory_bytes")?,
                },
                ready_images: unsigned(row, "ready_images")?,
                held_images: unsigned(row, "held_images")?,
                seconds_per_image: row.try_get("seconds_per_image")?,
            })
        })
        .collect()
}

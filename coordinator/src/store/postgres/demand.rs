//! What workers could do.

use sqlx::Row;
use sqlx::types::Json;

use super::PostgresStore;
use super::codec::{id, unsigned};
use crate::domain::schedule::Needs;
use crate::store::Result;
use crate::store::records::Demand;

pub(super) const DEMAND: &str = "SELECT * FROM keda_backlog ORDER BY job_id";

pub(super) async fn demand(store: &PostgresStore) -> Result<Vec<Demand>> {
    let rows = sqlx::query(DEMAND).fetch_all(&store.pool).await?;
    rows.iter()
        .map(|row| {
            let device_kind = row.try_get::<Option<&str>, _>("device_kind")?;
            Ok(Demand {
                job: id(row, "job_id")?,
                model: row.try_get("model")?,
                needs: Needs {
                    labels: row.try_get::<Json<_>, _>("labels")?.0,
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

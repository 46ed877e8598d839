//! Outputs that several jobs share.

use sqlx::{Row, SqliteConnection};

use super::codec::{form, unsigned, word};
use crate::domain::append::{Earlier, Names, lost_place, place as find_place, same_name};
use crate::domain::form::Form;
use crate::domain::id::JobId;
use crate::domain::spec::JobSpec;
use crate::store::{Error, Result};

/// How many images come before those of a new job in its output.
pub(super) async fn place(db: &mut SqliteConnection, spec: &JobSpec) -> Result<u64> {
    let earlier = earlier(db, &spec.output).await?;
    find_place(spec.append, &spec.form, &earlier).map_err(|why| Error::no_place(&spec.output, why))
}

/// Sealed jobs of an output.
async fn earlier(db: &mut SqliteConnection, output: &str) -> Result<Vec<Earlier>> {
    let rows = sqlx::query(
        "SELECT id, state, done, index_base + images AS end_index, format, quality, layout, thumbnails, name, \
         name_template FROM jobs WHERE output = ? AND sealed_at IS NOT NULL ORDER BY key",
    )
    .bind(output)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Earlier {
                job: JobId::from(row.try_get::<String, _>("id")?),
                state: word(row, "state")?,
                done: unsigned(row, "done")?,
                end: unsigned(row, "end_index")?,
                form: form(row)?,
                name: row.try_get("name")?,
                name_template: row.try_get("name_template")?,
            })
        })
        .collect()
}

/// Refuses to seal a job whose place another one took meanwhile, or whose names meet those of earlier ones.
pub(super) async fn keep_place(db: &mut SqliteConnection, key: i64) -> Result<()> {
    let job = sqlx::query(
        "SELECT output, name, name_template, index_base, format, quality, layout, thumbnails FROM jobs WHERE key = ?",
    )
    .bind(key)
    .fetch_one(&mut *db)
    .await?;
    let output: String = job.try_get("output")?;
    let (before, form): (u64, Form) = (unsigned(&job, "index_base")?, form(&job)?);
    let earlier = earlier(db, &output).await?;
    if let Some(other) = lost_place(before, &earlier) {
        return Err(Error::OutputTaken { output, job: other });
    }
    let names = Names { name: job.try_get("name")?, template: job.try_get("name_template")?, form: &form };
    if before == 0 || !names.may_meet(&earlier)? {
        return Ok(());
    }
    if let Some(other) = names.thumbnails_may_meet(&earlier) {
        return Err(Error::no_place(&output, other));
    }
    let met = sqlx::query(
        "SELECT n.object, p.line FROM images AS n JOIN prompts AS p ON p.job = n.job AND p.row_no = n.row_no \
         WHERE n.job = ?1 AND EXISTS (SELECT 1 FROM jobs AS o CROSS JOIN images AS e INDEXED BY images_by_object \
         ON e.job = o.key AND e.object = n.object WHERE o.output = ?2 AND o.sealed_at IS NOT NULL) \
         ORDER BY n.idx LIMIT 1",
    )
    .bind(key)
    .bind(&output)
    .fetch_optional(db)
    .await?;
    match met {
        None => Ok(()),
        Some(row) => Err(same_name(row.try_get("object")?).at_line(unsigned(&row, "line")?).into()),
    }
}

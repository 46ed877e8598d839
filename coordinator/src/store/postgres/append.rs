//! Outputs that several jobs share.

use sqlx::{PgConnection, Row};

use super::codec::{form, id, unsigned, word};
use crate::domain::append::{Earlier, Names, lost_place, place as find_place, same_name};
use crate::domain::form::Form;
use crate::domain::spec::JobSpec;
use crate::store::{Error, Result};

/// How many images come before those of a new job in its output.
pub(super) async fn place(db: &mut PgConnection, spec: &JobSpec) -> Result<u64> {
    let earlier = earlier(db, &spec.output).await?;
    find_place(spec.append, &spec.form, &earlier).map_err(|why| Error::no_place(&spec.output, why))
}

/// Sealed jobs of an output.
async fn earlier(db: &mut PgConnection, output: &str) -> Result<Vec<Earlier>> {
    let rows = sqlx::query(
        "SELECT id, state, done, index_base + images AS end_index, format, quality, layout, thumbnails, name, \
         name_template FROM jobs WHERE output = $1 AND sealed_at IS NOT NULL ORDER BY key",
    )
    .bind(output)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Earlier {
                job: id(row, "id")?,
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
pub(super) async fn keep_place(db: &mut PgConnection, key: i64) -> Result<()> {
    let job = sqlx::query(
        "SELECT output, name, name_template, index_base, format, quality, layout, thumbnails FROM jobs WHERE key = $1",
    )
    .bind(key)
    .fetch_one(&mut *db)
    .await?;
    let output: String = job.try_get("output")?;
    // Jobs of one output are sealed one after the other.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 2))")
        .bind(&output)
        .execute(&mut *db)
        .await?;
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
    // Names that follow from the index have no index of their own: both lists are read once.
    sqlx::raw_sql("SET LOCAL enable_hashjoin = on; SET LOCAL enable_nestloop = off")
        .execute(&mut *db)
        .await?;
    let met = sqlx::query(
        "SELECT n.object, coalesce(n.line, f.line) AS line FROM images AS n \
         LEFT JOIN images AS f ON f.job = n.job AND f.idx = CASE WHEN n.copy > 0 THEN n.idx - n.copy END \
         WHERE n.job = $1 AND EXISTS (SELECT FROM images AS e WHERE e.object = n.object AND e.job = ANY (ARRAY( \
         SELECT o.key FROM jobs AS o WHERE o.output = $2 AND o.sealed_at IS NOT NULL))) ORDER BY n.idx LIMIT 1",
    )
    .bind(key)
    .bind(&output)
    .persistent(false)
    .fetch_optional(&mut *db)
    .await?;
    sqlx::raw_sql("SET LOCAL enable_hashjoin = off; SET LOCAL enable_nestloop = on")
        .execute(&mut *db)
        .await?;
    match met {
        None => Ok(()),
        Some(row) => Err(same_name(row.try_get("object")?).at_line(unsigned(&row, "line")?).into()),
    }
}

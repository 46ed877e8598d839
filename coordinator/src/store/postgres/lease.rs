//! Handing out shards.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{
    Time, expiry, form, id, optional_time, settings, small, small_signed, time, unsigned, uuid,
};
use super::session::not_found;
use super::trouble::retried;
use crate::domain::schedule::{Choice, OpenGroup, OpenJob};
use crate::store::records::{Claim, Lease, LeaseRef, LeasedImage, OPEN_GROUPS};
use crate::store::{Error, Result};

/// Open jobs with some of their groups that have a shard ready. From one such group to the next by index: a job may
/// have thousands that are done. Whether a job is open is asked once more, in the same words, by `claim_shards`.
pub(super) const OPEN_JOBS: &str = "\
    SELECT j.id, j.owner, coalesce(o.weight, 1.0) AS weight, j.model, j.priority, j.needs, j.sealed_at, \
        j.deadline, j.width, j.height, j.steps, j.guidance, j.bin, j.decode, g.numbers, g.widths, g.heights, \
        (SELECT max(l.granted_at) FROM leases AS l WHERE l.job = j.key) AS leased_at, \
        (SELECT coalesce(sum(l.images), 0) FROM leases AS l WHERE l.job = j.key AND l.ended_at IS NULL) AS leased_images \
    FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
    CROSS JOIN LATERAL ( \
        WITH RECURSIVE ready (no, group_no) AS ( \
            SELECT 1, (SELECT s.group_no FROM shards AS s \
                WHERE s.job = j.key AND s.state = 'ready' AND s.not_before <= $1 ORDER BY s.group_no, s.key LIMIT 1) \
            UNION ALL \
            SELECT r.no + 1, (SELECT s.group_no FROM shards AS s \
                WHERE s.job = j.key AND s.state = 'ready' AND s.not_before <= $1 AND s.group_no > r.group_no \
                ORDER BY s.group_no, s.key LIMIT 1) \
            FROM ready AS r WHERE r.group_no IS NOT NULL AND r.no < $2) \
        SELECT array_agg(r.group_no ORDER BY r.no) AS numbers, array_agg(g.width ORDER BY r.no) AS widths, \
            array_agg(g.height ORDER BY r.no) AS heights \
        FROM ready AS r JOIN settings_groups AS g ON g.job = j.key AND g.group_no = r.group_no) AS g \
    WHERE j.state IN ('pending', 'running') AND j.sealed_at IS NOT NULL AND NOT coalesce(o.held, false) \
        AND (j.deadline IS NULL OR j.deadline > $1) \
        AND (j.started_at IS NOT NULL OR NOT EXISTS ( \
            SELECT FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job \
            WHERE d.job = j.key AND n.state <> 'succeeded' \
                AND NOT (d.any_end AND n.state IN ('failed', 'cancelled')) OFFSET 0)) \
        AND g.numbers IS NOT NULL \
    ORDER BY j.key";

pub(super) async fn open_jobs(store: &PostgresStore, now: Timestamp) -> Result<Vec<OpenJob>> {
    let rows = sqlx::query(OPEN_JOBS).bind(Time(now)).bind(OPEN_GROUPS as i32).fetch_all(&store.pool).await?;
    rows.iter()
        .map(|row| {
            Ok(OpenJob {
                leased_at: optional_time(row, "leased_at")?,
                leased_images: unsigned(row, "leased_images")?,
                groups: open_groups(row)?,
                ..open_job(row)?
            })
        })
        .collect()
}

fn open_groups(row: &PgRow) -> Result<Vec<OpenGroup>> {
    let column = |name: &str| -> Result<Vec<u32>> {
        let values: Vec<i32> = row.try_get(name)?;
        values
            .into_iter()
            .map(|value| {
                u32::try_from(value).map_err(|_| Error::Corrupt(format!("{name} {value} is negative")))
            })
            .collect()
    };
    let sizes = column("widths")?.into_iter().zip(column("heights")?);
    let groups = column("numbers")?.into_iter().zip(sizes);
    Ok(groups.map(|(number, size)| OpenGroup { number, size }).collect())
}

/// What a job says of itself: nothing of its leases and groups.
pub(super) fn open_job(row: &PgRow) -> Result<OpenJob> {
    Ok(OpenJob {
        id: id(row, "id")?,
        owner: row.try_get("owner")?,
        owner_weight: row.try_get("weight")?,
        model: row.try_get("model")?,
        priority: row.try_get("priority")?,
        needs: row.try_get::<Json<_>, _>("needs")?.0,
        settings: settings(row)?,
        submitted_at: time(row, "sealed_at")?,
        deadline: optional_time(row, "deadline")?,
        leased_at: None,
        leased_images: 0,
        groups: Vec::new(),
    })
}

/// A shard that was given out, whose images are still to be read.
pub(super) struct Given {
    claim: usize,
    pub lease: Lease,
    /// None of its images has a result.
    whole: bool,
    negative_prompt: String,
    job: i64,
    group: i32,
    first: i64,
    last: i64,
    /// As in the table `jobs`; the highest index there can be for a job of one group.
    mixed_from: i64,
}

pub(super) async fn lease_shards(
    store: &PostgresStore,
    claims: &[Claim],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<Result<Option<Lease>>>> {
    let rows = retried!(claim(store, claims, duration, now))?;
    let mut answers: Vec<Result<Option<Lease>>> = claims.iter().map(|_| Ok(None)).collect();
    let mut given = Vec::new();
    for row in &rows {
        let claim = usize::try_from(row.try_get::<i32, _>("claim")? - 1)
            .ok()
            .filter(|claim| *claim < claims.len())
            .ok_or_else(|| Error::Corrupt("an answer to a claim that was not made".to_owned()))?;
        let session = &claims[claim].session;
        if !row.try_get::<bool, _>("known")? {
            answers[claim] = Err(not_found(session));
        } else if !row.try_get::<bool, _>("open")? {
            answers[claim] = Err(Error::SessionClosed(session.clone()));
        } else {
            given.push(read_given(row, claim)?);
        }
    }
    // What was given out and is not told for an error here expires, at no image's cost: none is being rendered.
    read_images(store, &mut given).await?;
    for given in given {
        answers[given.claim] = Ok(Some(given.lease));
    }
    Ok(answers)
}

/// One statement for all; claims with the same choices share a list of them.
async fn claim(
    store: &PostgresStore,
    claims: &[Claim],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<PgRow>> {
    let db = store.writer(now).await?;
    let sessions: Vec<Option<Uuid>> = claims.iter().map(|claim| uuid(claim.session.as_str())).collect();
    let mut known: HashMap<&[Choice], i32> = HashMap::new();
    let (mut lists, mut of_list, mut jobs, mut groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for claim in claims {
        let next = known.len() as i32;
        let list = *known.entry(claim.choices.as_slice()).or_insert(next);
        lists.push(list);
        if list < next {
            continue;
        }
        for choice in &claim.choices {
            of_list.push(list);
            jobs.push(uuid(choice.job.as_str()));
            groups.push(choice.group.map(|group| small_signed(group, "group")).transpose()?);
        }
    }
    let rows = sqlx::query("SELECT * FROM claim_shards($1, lists_of_staying($1, $2), $3, $4, $5, $6, $7)")
        .bind(sessions)
        .bind(lists)
        .bind(of_list)
        .bind(jobs)
        .bind(groups)
        .bind(Time(now))
        .bind(Time(expiry(now, duration)?))
        .fetch_all(db)
        .await?;
    Ok(rows)
}

pub(super) fn read_given(row: &PgRow, claim: usize) -> Result<Given> {
    let lease = Lease {
        lease: LeaseRef { shard: id(row, "shard")?, attempt: small(row, "attempt")? },
        job: id(row, "job")?,
        job_name: row.try_get("name")?,
        model: row.try_get("model")?,
        output: row.try_get("output")?,
        settings: settings(row)?,
        images: Vec::new(),
        started_job: row.try_get("started_job")?,
        form: form(row)?,
    };
    Ok(Given {
        claim,
        lease,
        whole: row.try_get("whole")?,
        negative_prompt: row.try_get("negative_prompt")?,
        job: row.try_get("job_key")?,
        group: row.try_get("group_no")?,
        first: row.try_get("first_index")?,
        last: row.try_get("last_index")?,
        mixed_from: row.try_get::<Option<i64>, _>("mixed_from")?.unwrap_or(i64::MAX),
    })
}

/// The images of some shards. Up to where groups begin to alternate a range of indices is one of group 0; from there
/// the index of groups leads to them. `whole` shards need not be compared with the results. LIMIT and OFFSET have each
/// looked up by its key, whatever the planner believes of a job that it has not looked at yet.
pub(super) fn images_sql(whole: bool) -> String {
    const COLUMNS: &str =
        "i.job, i.idx, i.copy, i.seed, i.object, i.prompt, i.negative_prompt, i.prompt_id, i.extra";
    let open = if whole {
        ""
    } else {
        "WHERE NOT EXISTS (SELECT FROM results AS r WHERE r.job = i.job AND r.idx = i.idx OFFSET 0) "
    };
    format!(
        "SELECT g.no, i.idx, i.seed, i.object, coalesce(i.prompt, f.prompt) AS prompt, \
         coalesce(i.negative_prompt, f.negative_prompt) AS negative_prompt, \
         coalesce(i.prompt_id, f.prompt_id) AS prompt_id, coalesce(i.extra, f.extra)::text AS extra \
         FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) WITH ORDINALITY \
         AS g (job, group_no, first, last, mixed_from, no) \
         CROSS JOIN LATERAL (SELECT {COLUMNS} FROM images AS i WHERE i.job = g.job \
         AND i.idx BETWEEN g.first AND least(g.last, g.mixed_from - 1) \
         UNION ALL SELECT {COLUMNS} FROM images AS i WHERE i.mixed AND i.job = g.job AND i.group_no = g.group_no \
         AND i.idx BETWEEN greatest(g.first, g.mixed_from) AND g.last OFFSET 0) AS i \
         LEFT JOIN LATERAL (SELECT f.prompt, f.negative_prompt, f.prompt_id, f.extra FROM images AS f \
         WHERE i.copy > 0 AND f.job = i.job AND f.idx = i.idx - i.copy LIMIT 1) AS f ON true \
         {open}ORDER BY g.no, i.idx"
    )
}

/// The images of each of them, by one statement.
pub(super) async fn read_images(store: &PostgresStore, given: &mut [Given]) -> Result<()> {
    if given.is_empty() {
        return Ok(());
    }
    let whole = given.iter().all(|given| given.whole);
    let rows = sqlx::query(sqlx::AssertSqlSafe(images_sql(whole)))
        .bind(given.iter().map(|given| given.job).collect::<Vec<_>>())
        .bind(given.iter().map(|given| given.group).collect::<Vec<_>>())
        .bind(given.iter().map(|given| given.first).collect::<Vec<_>>())
        .bind(given.iter().map(|given| given.last).collect::<Vec<_>>())
        .bind(given.iter().map(|given| given.mixed_from).collect::<Vec<_>>())
        .fetch_all(&store.pool)
        .await?;
    for row in &rows {
        let number: i64 = row.try_get("no")?;
        let given = usize::try_from(number - 1)
            .ok()
            .and_then(|number| given.get_mut(number))
            .ok_or_else(|| Error::Corrupt("an image of a shard that was not given out".to_owned()))?;
        let negative_prompt: Option<String> = row.try_get("negative_prompt")?;
        given.lease.images.push(LeasedImage {
            index: unsigned(row, "idx")?,
            prompt: row.try_get("prompt")?,
            negative_prompt: negative_prompt.unwrap_or_else(|| given.negative_prompt.clone()),
            seed: unsigned(row, "seed")?,
            object: row.try_get("object")?,
            id: row.try_get("prompt_id")?,
            extra: row.try_get("extra")?,
        });
    }
    Ok(())
}

//! Whether what a farm on PostgreSQL wrote down adds up.

use super::cluster::Cluster;
use super::pictures;

/// What must not be, and the rows that are so.
const WRONGS: [(&str, &str); 14] = [
    (
        "an image of an ended job without its one result",
        "select j.id, i.idx, count(r.idx) as results from jobs as j join images as i on i.job = j.key \
         left join results as r on r.job = i.job and r.idx = i.idx \
         where j.state in ('succeeded', 'failed') group by j.id, i.idx having count(r.idx) <> 1",
    ),
    (
        "a result of no image",
        "select r.job, r.idx from results as r where not exists \
         (select from images as i where i.job = r.job and i.idx = r.idx)",
    ),
    (
        "a job whose counters are not its rows",
        "select j.id, j.state, j.images, j.done, j.failed, c.* from jobs as j cross join lateral (select \
         (select count(*) from images as i where i.job = j.key) as rows, \
         count(*) filter (where r.state = 'done') as pictures, count(*) filter (where r.state = 'failed') as failures \
         from results as r where r.job = j.key) as c where j.sealed_at is not null \
         and (j.images, j.done, j.failed) is distinct from (c.rows, c.pictures, c.failures)",
    ),
    (
        "an image that is in no shard, or in several",
        "select i.job, i.idx, count(s.key) as shards from jobs as j join images as i on i.job = j.key \
         left join shards as s on s.job = i.job and s.group_no = i.group_no \
         and i.idx between s.first_index and s.last_index \
         where j.sealed_at is not null group by i.job, i.idx having count(s.key) <> 1",
    ),
    (
        "a shard whose counters are not its rows",
        "select s.id, s.state, s.images, s.remaining, c.* from shards as s \
         join jobs as j on j.key = s.job and j.sealed_at is not null cross join lateral ( \
         select count(*) as rows, count(*) filter (where r.idx is null) as missing from images as i \
         left join results as r on r.job = i.job and r.idx = i.idx \
         where i.job = s.job and i.group_no = s.group_no and i.idx between s.first_index and s.last_index) as c \
         where (s.images, s.remaining) is distinct from (c.rows, c.missing)",
    ),
    (
        "a shard that is leased without a lease, or the other way round",
        "select s.id, s.state, count(l.attempt) as held from shards as s \
         left join leases as l on l.shard = s.key and l.ended_at is null \
         group by s.id, s.state having (s.state = 'leased')::integer <> count(l.attempt)",
    ),
    (
        "a lease that is open for ever",
        "select l.shard, l.attempt, l.expires_at, j.state from leases as l join jobs as j on j.key = l.job \
         where l.ended_at is null \
         and (l.expires_at < now() - interval '1 minute' or j.state in ('succeeded', 'failed', 'cancelled'))",
    ),
    (
        "a result that was not leased to its worker",
        "select r.job, r.idx, r.attempt, w.worker, h.worker as holder from results as r \
         left join sessions as w on w.key = r.session \
         left join leases as l on l.shard = r.shard and l.attempt = r.attempt and l.job = r.job \
         left join sessions as h on h.key = l.session where h.worker is distinct from w.worker",
    ),
    (
        "a shard whose attempts are not counted one by one",
        // From 1, or from where the shard was cut from another.
        "select s.id, s.attempt, count(l.attempt) as leases, max(l.attempt) as last from shards as s \
         left join leases as l on l.shard = s.key group by s.key \
         having coalesce(max(l.attempt), 0) <> s.attempt \
         or count(l.attempt) <> s.attempt - coalesce(min(l.attempt), 1) + 1 \
         or (min(l.attempt) > 1 and coalesce(s.cut_from, s.key) = s.key)",
    ),
    (
        "a lease whose counters are not its rows",
        "select l.shard, l.attempt, l.done, l.errors, c.* from leases as l \
         join shards as s on s.key = l.shard cross join lateral (select \
         (select count(*) from results as r where r.job = l.job and r.shard = l.shard and r.attempt = l.attempt \
         and r.state = 'done') as pictures, \
         (select count(*) from image_errors as e join images as i on i.job = e.job and i.idx = e.idx \
         left join sessions as w on w.key = e.session join sessions as h on h.key = l.session \
         where e.job = l.job and e.attempt = l.attempt and i.group_no = s.group_no and e.idx >= s.first_index \
         and e.idx <= coalesce((select max(p.last_index) from shards as p where p.cut_from = s.cut_from), s.last_index) \
         and (s.cut_from is null or w.worker = h.worker)) as failures) as c \
         where (l.done, l.errors) is distinct from (c.pictures, c.failures)",
    ),
    (
        "a lease that was not granted once and ended once",
        "select l.shard, l.attempt, l.outcome, e.* from leases as l cross join lateral (select \
         count(*) filter (where e.kind = 'lease_granted') as granted, \
         count(*) filter (where e.kind <> 'lease_granted') as ended, \
         count(*) filter (where e.kind = 'lease_' || l.outcome) as ended_so, \
         max(e.seq) filter (where e.kind = 'lease_granted') as grant_seq, \
         min(e.seq) filter (where e.kind <> 'lease_granted') as end_seq from events as e \
         where e.shard = l.shard and e.attempt = l.attempt and e.session = l.session and e.kind like 'lease\\_%') as e \
         where e.granted <> 1 or e.ended <> (l.ended_at is not null)::integer or e.ended_so <> e.ended \
         or e.grant_seq > e.end_seq",
    ),
    (
        "history of a lease that there is not",
        "select e.* from events as e where e.kind like 'lease\\_%' and not exists (select from leases as l \
         where l.shard = e.shard and l.attempt = e.attempt and l.session = e.session)",
    ),
    (
        "a job whose history is not its life",
        "select j.id, j.state, e.*, f.failures from jobs as j cross join lateral (select \
         count(*) filter (where e.kind = 'job_submitted') as submitted, \
         count(*) filter (where e.kind = 'job_started') as started, \
         count(*) filter (where e.kind in ('job_finished', 'job_cancelled')) as ended, \
         count(*) filter (where e.kind = 'image_failed') as failed from events as e where e.job = j.key) as e \
         cross join lateral (select count(*) as failures from results as r \
         where r.job = j.key and r.state = 'failed') as f \
         where (e.submitted, e.started, e.ended, e.failed) is distinct from ((j.sealed_at is not null)::integer, \
         (j.started_at is not null)::integer, (j.finished_at is not null)::integer, f.failures)",
    ),
    (
        "a session whose history is not its life",
        "select w.id, w.worker, e.* from sessions as w cross join lateral (select \
         count(*) filter (where e.kind = 'session_opened') as opened, \
         count(*) filter (where e.kind = 'session_closed') as closed from events as e where e.session = w.key) as e \
         where (e.opened, e.closed) is distinct from (1, (w.closed_at is not null)::integer)",
    ),
];

/// All that is wrong, a line each.
fn found() -> String {
    let wrongs = WRONGS.map(|(what, sql)| format!("select '{what}: ' || to_json(q) from ({sql}) as q"));
    wrongs.join(" union all ")
}

/// Every image of an ended job has one result, which was leased; counters are the rows that they count; every lease
/// has one beginning and one end in the history, and none is open for ever.
#[track_caller]
pub fn assert_balanced(cluster: &Cluster) {
    let found = cluster.sql(&found());
    assert!(found.is_empty(), "the books do not add up:\n{found}\n{}", cluster.sandbox.running_log());
}

/// The same, and a job has succeeded: all its images are done, and its output holds their pictures as they were
/// recorded, and nothing else.
#[track_caller]
pub fn assert_whole(cluster: &Cluster, job: &str, images: usize) {
    let of_job = |what: &str| cluster.sql(&format!("select {what} where job_id = '{job}'"));
    assert_eq!(
        of_job("state, images, done, failed from audit_jobs"),
        format!("succeeded|{images}|{images}|0")
    );
    assert_balanced(cluster);
    let output = of_job("output from audit_jobs");
    let stored = of_job("object || ' ' || sha256 from audit_images");
    pictures::assert_stored(output.as_ref(), stored.lines());
}

/// What makes each of the wrongs.
const FORGERIES: [&str; WRONGS.len()] = [
    "delete from results where idx = 0",
    "delete from images where idx = 0",
    "update jobs set done = done - 1",
    "update shards set last_index = last_index - 1",
    "update shards set images = images + 1",
    "update shards set state = 'leased', remaining = 1",
    "update leases set ended_at = null, outcome = null",
    "update results set session = null where idx = 0",
    "update shards set attempt = attempt + 1",
    "update leases set errors = 1",
    "delete from events where kind = 'lease_finished'",
    "update events set attempt = 7 where kind = 'lease_finished'",
    "delete from events where kind = 'job_started'",
    "delete from events where kind = 'session_opened'",
];

#[test]
fn forged_books_are_found_out() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let job = cluster.submit(&coordinator.address, 2, "64x64", "1");
    let _worker = cluster.worker(&coordinator.address, "w");
    cluster.watch(&coordinator.address, &job);
    assert_whole(&cluster, &job, 2);
    for ((what, _), forgery) in WRONGS.iter().zip(FORGERIES) {
        // Without the triggers that forbid it.
        let forged =
            format!("begin; set local session_replication_role = replica; {forgery}; {}; rollback", found());
        let told = cluster.sql(&forged);
        assert!(told.contains(what), "{forgery}: {told}");
    }
}

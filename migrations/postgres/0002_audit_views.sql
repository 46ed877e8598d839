-- The documented views: docs/sql.md tells them column by column. Columns are added, never renamed or removed.

CREATE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs,
    extract(epoch FROM started_at - sealed_at)::double precision AS waited_seconds,
    extract(epoch FROM finished_at - started_at)::double precision AS ran_seconds
FROM jobs
WHERE sealed_at IS NOT NULL;

CREATE VIEW audit_images AS
SELECT
    j.id AS job_id,
    i.idx AS image_index,
    coalesce(r.state, 'pending') AS state,
    coalesce(i.prompt, f.prompt) AS prompt,
    coalesce(i.negative_prompt, f.negative_prompt, j.negative_prompt) AS negative_prompt,
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    r.recipe ->> 'weights_sha256' AS weights_sha256,
    j.output,
    i.object,
    r.bytes, encode(r.sha256, 'hex') AS sha256,
    coalesce(i.prompt_id, f.prompt_id) AS prompt_id,
    coalesce(i.line, f.line) AS line,
    coalesce(i.extra, f.extra) AS extra,
    s.id AS shard_id, r.attempt,
    w.id AS session_id, w.worker, r.device,
    r.render_seconds, r.decode_seconds,
    r.error_class, r.error,
    coalesce(o.errors, 0) AS errors, coalesce(o.losses, 0) AS losses,
    r.recipe,
    r.finished_at
FROM images AS i
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
-- The first image of the same row, for copies.
LEFT JOIN images AS f ON f.job = i.job AND f.idx = CASE WHEN i.copy > 0 THEN i.idx - i.copy END
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN results AS r ON r.job = i.job AND r.idx = i.idx
LEFT JOIN image_faults AS o ON o.job = i.job AND o.idx = i.idx
LEFT JOIN shards AS s ON s.key = r.shard
LEFT JOIN sessions AS w ON w.key = r.session;

CREATE VIEW audit_attempts AS
SELECT
    j.id AS job_id,
    s.id AS shard_id,
    l.attempt,
    s.first_index, s.last_index, s.images,
    w.id AS session_id, w.worker, w.version,
    l.granted_at, l.expires_at, l.ended_at,
    coalesce(l.outcome, 'held') AS outcome,
    to_jsonb(l.rendering) AS rendering,
    l.done, l.errors,
    extract(epoch FROM l.ended_at - l.granted_at)::double precision AS held_seconds
FROM leases AS l
JOIN shards AS s ON s.key = l.shard
JOIN jobs AS j ON j.key = s.job
JOIN sessions AS w ON w.key = l.session;

CREATE VIEW audit_events AS
SELECT
    e.seq, e.at, e.kind,
    j.id AS job_id,
    s.id AS shard_id,
    e.idx AS image_index,
    e.attempt,
    w.id AS session_id, w.worker,
    e.detail,
    coalesce(e.actor, w.worker, 'coordinator') AS actor,
    e.reason
FROM events AS e
LEFT JOIN jobs AS j ON j.key = e.job
LEFT JOIN shards AS s ON s.key = e.shard
LEFT JOIN sessions AS w ON w.key = e.session;

CREATE VIEW audit_workers AS
SELECT
    w.worker,
    n.version, n.devices, n.labels,
    w.sessions, w.open_sessions, w.first_seen_at, w.last_seen_at,
    coalesce(s.failures, 0) AS failures_in_a_row,
    coalesce(s.exclusions, 0) AS exclusions,
    s.excluded_until
FROM (
    SELECT
        worker, max(key) AS newest, count(*) AS sessions, count(*) FILTER (WHERE closed_at IS NULL) AS open_sessions,
        min(opened_at) AS first_seen_at, max(seen_at) AS last_seen_at
    FROM sessions GROUP BY worker) AS w
JOIN sessions AS n ON n.key = w.newest
LEFT JOIN standings AS s ON s.worker = w.worker;

CREATE VIEW audit_usage AS
SELECT
    j.id AS job_id, j.name, j.owner, j.model,
    r.worker, r.device, r.day, r.images, r.failed, r.device_seconds, r.decode_seconds, r.bytes
FROM (
    SELECT
        r.job, w.worker, r.device,
        to_char(r.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
        count(*) FILTER (WHERE r.state = 'done') AS images,
        count(*) FILTER (WHERE r.state = 'failed') AS failed,
        coalesce(sum(r.render_seconds), 0) AS device_seconds,
        coalesce(sum(r.decode_seconds), 0) AS decode_seconds,
        coalesce(sum(r.bytes), 0) AS bytes
    FROM results AS r
    LEFT JOIN sessions AS w ON w.key = r.session
    GROUP BY r.job, w.worker, r.device, day) AS r
JOIN jobs AS j ON j.key = r.job;

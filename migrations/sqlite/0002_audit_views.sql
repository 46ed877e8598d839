-- The documented views: docs/sql.md tells them column by column. Columns are added, never renamed or removed.

CREATE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at
FROM jobs
WHERE sealed_at IS NOT NULL;

CREATE VIEW audit_images AS
SELECT
    j.id AS job_id,
    i.idx AS image_index,
    coalesce(r.state, 'pending') AS state,
    p.prompt,
    coalesce(p.negative_prompt, j.negative_prompt) AS negative_prompt,
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    r.recipe ->> '$.weights_sha256' AS weights_sha256,
    j.output,
    i.object,
    r.bytes, r.sha256,
    p.id AS prompt_id, p.line, p.extra,
    s.id AS shard_id, r.attempt,
    w.id AS session_id, w.worker, r.device,
    r.render_seconds, r.decode_seconds,
    r.error_class, r.error,
    i.errors, i.losses,
    r.recipe,
    r.finished_at
FROM images AS i
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
LEFT JOIN prompts AS p ON p.job = i.job AND p.row_no = i.row_no
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN results AS r ON r.job = i.job AND r.idx = i.idx
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
    l.rendering,
    -- From the images of the shard: between its indices there may be many of other shards. (With BETWEEN the
    -- planner leaves the upper bound out.)
    (SELECT count(*) FROM images AS i INDEXED BY images_by_group
        CROSS JOIN results AS r ON r.job = i.job AND r.idx = i.idx
        WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index AND i.idx <= s.last_index
            AND r.attempt = l.attempt AND r.state = 'done') AS done,
    (SELECT count(*) FROM images AS i INDEXED BY images_by_group
        CROSS JOIN image_errors AS e ON e.job = i.job AND e.idx = i.idx
        WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index AND i.idx <= s.last_index
            AND e.attempt = l.attempt) AS errors
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
    e.detail
FROM events AS e
LEFT JOIN jobs AS j ON j.key = e.job
LEFT JOIN shards AS s ON s.key = e.shard
LEFT JOIN sessions AS w ON w.key = e.session;

-- Two more documented views, and durations in those that there are: databases tell the time between two times in
-- different words.

DROP VIEW audit_jobs;
CREATE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs,
    (julianday(started_at) - julianday(sealed_at)) * 86400 AS waited_seconds,
    (julianday(finished_at) - julianday(started_at)) * 86400 AS ran_seconds
FROM jobs
WHERE sealed_at IS NOT NULL;

DROP VIEW audit_attempts;
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
            AND e.attempt = l.attempt) AS errors,
    CASE WHEN l.ended_at IS NULL THEN NULL ELSE (julianday(l.ended_at) - julianday(l.granted_at)) * 86400 END AS held_seconds
FROM leases AS l
JOIN shards AS s ON s.key = l.shard
JOIN jobs AS j ON j.key = s.job
JOIN sessions AS w ON w.key = l.session;

CREATE VIEW audit_workers AS
SELECT
    w.worker,
    max(w.version) FILTER (WHERE w.key = newest.key) AS version,
    max(w.devices) FILTER (WHERE w.key = newest.key) AS devices,
    max(w.labels) FILTER (WHERE w.key = newest.key) AS labels,
    count(*) AS sessions,
    count(*) FILTER (WHERE w.closed_at IS NULL) AS open_sessions,
    min(w.opened_at) AS first_seen_at,
    max(w.seen_at) AS last_seen_at,
    coalesce(s.failures, 0) AS failures_in_a_row,
    coalesce(s.exclusions, 0) AS exclusions,
    s.excluded_until
FROM sessions AS w
JOIN (SELECT worker, max(key) AS key FROM sessions GROUP BY worker) AS newest ON newest.worker = w.worker
LEFT JOIN standings AS s ON s.worker = w.worker
GROUP BY w.worker;

CREATE VIEW audit_usage AS
SELECT
    j.id AS job_id, j.name, j.owner, j.model,
    w.worker, r.device,
    substr(r.finished_at, 1, 10) AS day,
    count(*) FILTER (WHERE r.state = 'done') AS images,
    count(*) FILTER (WHERE r.state = 'failed') AS failed,
    total(r.render_seconds) AS device_seconds,
    total(r.decode_seconds) AS decode_seconds,
    coalesce(sum(r.bytes), 0) AS bytes
FROM results AS r
JOIN jobs AS j ON j.key = r.job
LEFT JOIN sessions AS w ON w.key = r.session
GROUP BY j.key, w.worker, r.device, day;

-- What was used, with what was taken back: pictures that were rendered once more because their objects were lost, and failures that
-- were tried again, have taken device time too.

DROP VIEW audit_usage;
CREATE VIEW audit_usage AS
SELECT
    j.id AS job_id, j.name, j.owner, j.model,
    w.worker, r.device, r.day,
    sum(r.images) AS images,
    sum(r.failed) AS failed,
    total(r.device_seconds) AS device_seconds,
    total(r.decode_seconds) AS decode_seconds,
    sum(r.bytes) AS bytes,
    sum(r.taken_back) AS taken_back,
    total(r.taken_back_seconds) AS taken_back_seconds
FROM (
    SELECT
        job, session, device, substr(finished_at, 1, 10) AS day,
        count(*) FILTER (WHERE state = 'done') AS images, count(*) FILTER (WHERE state = 'failed') AS failed,
        total(render_seconds) AS device_seconds, total(decode_seconds) AS decode_seconds, coalesce(sum(bytes), 0) AS bytes,
        0 AS taken_back, 0.0 AS taken_back_seconds
    FROM results GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT
        job, session, device, substr(finished_at, 1, 10), 0, 0,
        total(render_seconds), total(decode_seconds), 0, count(*), total(render_seconds)
    FROM requeued_results GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT
        job, session, device, substr(finished_at, 1, 10), 0, 0,
        total(render_seconds), 0.0, 0, count(*), total(render_seconds)
    FROM retried_results GROUP BY 1, 2, 3, 4) AS r
JOIN jobs AS j ON j.key = r.job
LEFT JOIN sessions AS w ON w.key = r.session
GROUP BY j.key, w.worker, r.device, r.day;

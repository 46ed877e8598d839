-- What was used, with what was taken back: pictures that were rendered once more because their objects were lost, and failures that
-- were tried again, have taken device time too.

CREATE OR REPLACE VIEW audit_usage AS
SELECT
    j.id AS job_id, j.name, j.owner, j.model,
    r.worker, r.device, r.day, r.images, r.failed, r.device_seconds, r.decode_seconds, r.bytes,
    r.taken_back, r.taken_back_seconds
FROM (
    SELECT
        u.job, w.worker, u.device, to_char(u.day, 'YYYY-MM-DD') AS day,
        sum(u.images)::bigint AS images,
        sum(u.failed)::bigint AS failed,
        sum(u.device_seconds) AS device_seconds,
        sum(u.decode_seconds) AS decode_seconds,
        sum(u.bytes) AS bytes,
        sum(u.taken_back)::bigint AS taken_back,
        sum(u.taken_back_seconds) AS taken_back_seconds
    FROM (
        SELECT
            job, session, device, (finished_at AT TIME ZONE 'UTC')::date AS day,
            count(*) FILTER (WHERE state = 'done') AS images, count(*) FILTER (WHERE state = 'failed') AS failed,
            coalesce(sum(render_seconds), 0) AS device_seconds, coalesce(sum(decode_seconds), 0) AS decode_seconds,
            coalesce(sum(bytes), 0) AS bytes, 0::bigint AS taken_back, 0::double precision AS taken_back_seconds
        FROM results GROUP BY 1, 2, 3, 4
        UNION ALL
        SELECT
            job, session, device, (finished_at AT TIME ZONE 'UTC')::date, 0, 0,
            coalesce(sum(render_seconds), 0), coalesce(sum(decode_seconds), 0), 0,
            count(*), coalesce(sum(render_seconds), 0)
        FROM requeued_results GROUP BY 1, 2, 3, 4
        UNION ALL
        SELECT
            job, session, device, (finished_at AT TIME ZONE 'UTC')::date, 0, 0,
            coalesce(sum(render_seconds), 0), 0, 0, count(*), coalesce(sum(render_seconds), 0)
        FROM retried_results GROUP BY 1, 2, 3, 4) AS u
    LEFT JOIN sessions AS w ON w.key = u.session
    GROUP BY u.job, w.worker, u.device, u.day) AS r
JOIN jobs AS j ON j.key = r.job;

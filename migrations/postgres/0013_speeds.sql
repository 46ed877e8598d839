-- What images took, for estimates and the size of shards: what ended jobs tell, kept apart, so that nobody reads results to know.

-- One for each size, number of steps and format that a model was ever rendered with, written when a job ends.
CREATE TABLE speeds (
    model text NOT NULL,
    pixels bigint NOT NULL,
    steps integer NOT NULL,
    format text NOT NULL,
    -- Means over some images of that job, and how many those were.
    seconds double precision NOT NULL,
    bytes double precision NOT NULL,
    images bigint NOT NULL,
    -- Newer jobs are believed.
    job bigint NOT NULL
);

-- By the hash of the model, whose name may be longer than an index takes.
CREATE UNIQUE INDEX speeds_are_there_once ON speeds (hashtextextended(model, 0), pixels, steps, format);

-- Of the newest jobs that have ended, by their last results.
INSERT INTO speeds (model, pixels, steps, format, seconds, bytes, images, job)
SELECT DISTINCT ON (s.model, s.pixels, s.steps, s.format) s.*
FROM (
    SELECT j.model, g.width::bigint * g.height AS pixels, g.steps, j.format,
        avg(r.render_seconds) AS seconds, avg(r.bytes)::double precision AS bytes, count(*) AS images, j.key
    FROM (SELECT key, model, format FROM jobs WHERE done > 0 AND state IN ('succeeded', 'failed', 'cancelled')
        ORDER BY key DESC LIMIT 1000) AS j
    CROSS JOIN LATERAL (
        SELECT r.idx, r.render_seconds, r.bytes FROM results AS r WHERE r.job = j.key AND r.state = 'done'
        ORDER BY r.idx DESC LIMIT 500) AS r
    CROSS JOIN LATERAL (SELECT i.group_no FROM images AS i WHERE i.job = j.key AND i.idx = r.idx LIMIT 1) AS i
    CROSS JOIN LATERAL (
        SELECT g.width, g.height, g.steps FROM settings_groups AS g
        WHERE g.job = j.key AND g.group_no = i.group_no LIMIT 1) AS g
    GROUP BY j.key, j.model, j.format, 2, 3) AS s
WHERE s.seconds IS NOT NULL
ORDER BY s.model, s.pixels, s.steps, s.format, s.key DESC
ON CONFLICT DO NOTHING;

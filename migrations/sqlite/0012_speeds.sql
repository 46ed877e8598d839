-- What images took, for estimates and the size of shards: what ended jobs tell, kept apart, so that nobody reads results to know.

-- One for each size, number of steps and format that a model was ever rendered with, written when a job ends.
CREATE TABLE speeds (
    model TEXT NOT NULL,
    pixels INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    format TEXT NOT NULL,
    -- Means over some images of that job, and how many those were.
    seconds REAL NOT NULL,
    bytes REAL NOT NULL,
    images INTEGER NOT NULL,
    -- Newer jobs are believed.
    job INTEGER NOT NULL,
    PRIMARY KEY (model, pixels, steps, format)
) STRICT, WITHOUT ROWID;

-- Of the newest jobs that have ended, by their last results.
INSERT INTO speeds (model, pixels, steps, format, seconds, bytes, images, job)
SELECT j.model, g.width * g.height AS pixels, g.steps, j.format, avg(r.render_seconds), avg(r.bytes), count(*), j.key
FROM (
    SELECT key, model, format FROM jobs WHERE done > 0 AND state IN ('succeeded', 'failed', 'cancelled')
        ORDER BY key DESC LIMIT 1000) AS j
CROSS JOIN results AS r ON r.job = j.key AND r.state = 'done' AND r.idx >= coalesce(
    (SELECT n.idx FROM results AS n WHERE n.job = j.key ORDER BY n.idx DESC LIMIT 1 OFFSET 499), 0)
CROSS JOIN images AS i ON i.job = r.job AND i.idx = r.idx
CROSS JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
GROUP BY j.key, 2, 3
HAVING avg(r.render_seconds) IS NOT NULL
ORDER BY j.key
ON CONFLICT (model, pixels, steps, format) DO UPDATE SET
    seconds = excluded.seconds, bytes = excluded.bytes, images = excluded.images, job = excluded.job;

-- Webhooks that are called when a job ends, and what workers could do now, for autoscalers.

-- Called when the job ends; null for none.
ALTER TABLE jobs ADD COLUMN webhook TEXT;

-- One for each end of a job with a webhook, made in the transaction that ends it.
CREATE TABLE webhooks (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The same in every try, so that a receiver knows one that comes twice.
    id TEXT NOT NULL UNIQUE,
    job INTEGER NOT NULL REFERENCES jobs (key),
    url TEXT NOT NULL,
    -- What is told, to the letter.
    body TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    -- Tries that were begun. Whoever begins one has it alone until next_at.
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    -- While it is pending: not tried before.
    next_at TEXT NOT NULL,
    ended_at TEXT,
    -- What was wrong with the last try that has ended.
    error TEXT,
    CHECK ((state = 'pending') = (ended_at IS NULL))
) STRICT;

CREATE INDEX webhooks_due ON webhooks (next_at) WHERE state = 'pending';
CREATE INDEX webhooks_of_job ON webhooks (job, key);

-- Shards that were handed back and wait: a shard that was never leased waits for nothing, and is not in it.
CREATE INDEX shards_delayed ON shards (job, not_before) WHERE state = 'ready' AND attempt > 0;

-- What workers could do now, and what they have in hand, by job: docs/scaling.md. It reads counters, and images only of shards
-- that are held or wait after an error: as cheap for ten million images as for ten.
CREATE VIEW keda_backlog AS
WITH unfinished AS MATERIALIZED (
    SELECT
        j.key, j.id, j.owner, j.model, j.needs, j.done, 1.0 * j.width * j.height * j.steps AS work,
        j.images - j.done - j.failed AS open_images,
        j.state <> 'paused' AND coalesce(o.held, 0) = 0
            AND (j.deadline IS NULL OR j.deadline > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
            AND (j.started_at IS NOT NULL OR NOT EXISTS (
                SELECT 1 FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
                WHERE d.job = j.key AND n.state <> 'succeeded'
                    AND NOT (d.any_end AND n.state IN ('failed', 'cancelled')))) AS is_open,
        (SELECT count(*) FROM leases AS l JOIN shards AS s ON s.key = l.shard
            JOIN images AS i INDEXED BY images_by_group ON i.job = s.job AND i.group_no = s.group_no
                AND i.idx >= s.first_index AND i.idx <= s.last_index
            WHERE l.job = j.key AND l.ended_at IS NULL
                AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx)) AS held_images,
        (SELECT count(*) FROM shards AS s INDEXED BY shards_delayed
            JOIN images AS i INDEXED BY images_by_group ON i.job = s.job AND i.group_no = s.group_no
                AND i.idx >= s.first_index AND i.idx <= s.last_index
            WHERE s.job = j.key AND s.state = 'ready' AND s.attempt > 0
                AND s.not_before > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
                AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx)) AS delayed_images,
        -- Another one that tells how long images of this model take.
        (SELECT m.key FROM jobs AS m WHERE m.model = j.model AND m.done > 0 AND m.key <> j.key
            ORDER BY m.key DESC LIMIT 1) AS model_job
    FROM (
        -- Each by an index that there is.
        SELECT * FROM jobs WHERE state IN ('pending', 'running') AND sealed_at IS NOT NULL
        UNION ALL
        SELECT * FROM jobs WHERE state IN ('running', 'paused') AND sealed_at IS NOT NULL AND state = 'paused') AS j
    LEFT JOIN owners AS o ON o.owner = j.owner
    WHERE j.done + j.failed < j.images),
backlog AS MATERIALIZED (
    SELECT
        u.*,
        CASE WHEN u.is_open THEN max(u.open_images - u.held_images - u.delayed_images, 0) ELSE 0 END AS ready_images,
        -- What its own last images took; else those of the other job, by megapixels and steps; else ten seconds.
        coalesce(
            (SELECT avg(r.render_seconds) FROM (
                SELECT r.render_seconds, r.state FROM results AS r WHERE r.job = u.key ORDER BY r.idx DESC LIMIT 100) AS r
                WHERE r.state = 'done'),
            (SELECT avg(r.render_seconds) FROM (
                SELECT r.render_seconds, r.state FROM results AS r WHERE r.job = u.model_job ORDER BY r.idx DESC LIMIT 100
                ) AS r WHERE r.state = 'done')
                * (SELECT u.work / (1.0 * m.width * m.height * m.steps) FROM jobs AS m WHERE m.key = u.model_job),
            10.0) AS seconds
    FROM unfinished AS u)
SELECT
    b.id AS job_id, b.owner, b.model,
    coalesce(b.needs -> '$.labels', '{}') AS labels,
    b.needs ->> '$.device_kind' AS device_kind,
    coalesce(b.needs ->> '$.memory_bytes', 0) AS memory_bytes,
    b.ready_images, b.held_images,
    b.seconds AS seconds_per_image,
    (b.ready_images + b.held_images) * b.seconds AS device_seconds
FROM backlog AS b
WHERE b.ready_images + b.held_images > 0;

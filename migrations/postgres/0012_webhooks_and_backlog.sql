-- Webhooks that are called when a job ends, and what workers could do now, for autoscalers.

-- Called when the job ends; null for none.
ALTER TABLE jobs ADD COLUMN webhook text;

-- One for each end of a job with a webhook, made in the transaction that ends it.
CREATE TABLE webhooks (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same in every try, so that a receiver knows one that comes twice.
    id uuid NOT NULL UNIQUE,
    job bigint NOT NULL REFERENCES jobs (key),
    url text NOT NULL,
    -- What is told, to the letter.
    body text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    -- Tries that were begun. Whoever begins one has it alone until next_at.
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    -- While it is pending: not tried before.
    next_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- What was wrong with the last try that has ended.
    error text,
    CHECK ((state = 'pending') = (ended_at IS NULL))
);

CREATE INDEX webhooks_due ON webhooks (next_at) WHERE state = 'pending';
CREATE INDEX webhooks_of_job ON webhooks (job, key);

-- Shards that were handed back and wait: a shard that was never leased waits for nothing, and is not in it.
CREATE INDEX shards_delayed ON shards (not_before) INCLUDE (job, remaining) WHERE state = 'ready' AND attempt > 0;

-- What workers could do now, and what they have in hand, by job: docs/scaling.md. It reads counters, and of shards only those
-- that are held or wait after an error: as cheap for ten million images as for ten.
CREATE VIEW keda_backlog AS
WITH delayed AS MATERIALIZED (
    SELECT s.job, sum(s.remaining)::bigint AS images FROM shards AS s
    WHERE s.state = 'ready' AND s.attempt > 0 AND s.not_before > now() GROUP BY s.job),
unfinished AS MATERIALIZED (
    SELECT
        j.key, j.id, j.owner, j.model, j.needs, j.done, j.width::double precision * j.height * j.steps AS work,
        j.images - j.done - j.failed AS open_images,
        j.state <> 'paused' AND NOT coalesce(o.held, false)
            AND (j.deadline IS NULL OR j.deadline > now())
            AND (j.started_at IS NOT NULL OR NOT EXISTS (
                SELECT FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
                WHERE d.job = j.key AND n.state <> 'succeeded'
                    AND NOT (d.any_end AND n.state IN ('failed', 'cancelled')) OFFSET 0)) AS is_open,
        (SELECT coalesce(sum(s.remaining), 0)::bigint FROM leases AS l JOIN shards AS s ON s.key = l.shard
            WHERE l.job = j.key AND l.ended_at IS NULL) AS held_images,
        coalesce((SELECT d.images FROM delayed AS d WHERE d.job = j.key), 0) AS delayed_images,
        -- Another one that tells how long images of this model take.
        (SELECT m.key FROM jobs AS m
            WHERE hashtextextended(m.model, 0) = hashtextextended(j.model, 0) AND m.model = j.model AND m.done > 0
                AND m.key <> j.key ORDER BY m.key DESC LIMIT 1) AS model_job
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
        CASE WHEN u.is_open THEN greatest(u.open_images - u.held_images - u.delayed_images, 0) ELSE 0 END AS ready_images,
        -- What its own last images took; else those of the other job, by megapixels and steps; else ten seconds.
        coalesce(
            CASE WHEN u.done > 0 THEN (SELECT avg(r.render_seconds) FROM (
                SELECT r.render_seconds, r.state FROM results AS r WHERE r.job = u.key ORDER BY r.idx DESC LIMIT 100) AS r
                WHERE r.state = 'done') END,
            (SELECT avg(r.render_seconds) FROM (
                SELECT r.render_seconds, r.state FROM results AS r WHERE r.job = u.model_job ORDER BY r.idx DESC LIMIT 100
                ) AS r WHERE r.state = 'done')
                * (SELECT u.work / (m.width::double precision * m.height * m.steps) FROM jobs AS m WHERE m.key = u.model_job),
            10) AS seconds
    FROM unfinished AS u)
SELECT
    b.id AS job_id, b.owner, b.model,
    coalesce(b.needs -> 'labels', '{}') AS labels,
    b.needs ->> 'device_kind' AS device_kind,
    coalesce((b.needs ->> 'memory_bytes')::bigint, 0) AS memory_bytes,
    b.ready_images, b.held_images,
    b.seconds AS seconds_per_image,
    (b.ready_images + b.held_images) * b.seconds AS device_seconds
FROM backlog AS b
WHERE b.ready_images + b.held_images > 0;

-- Shows the role of analysts, when there is one, the views that it cannot read yet: as before, and those for autoscalers.
CREATE OR REPLACE FUNCTION admit_reader() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    _reader oid := (SELECT oid FROM pg_roles WHERE rolname = 'sanafarm_reader');
    _view record;
BEGIN
    IF _reader IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(1396788802, 0);
    IF NOT has_schema_privilege(_reader, current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO sanafarm_reader', current_schema());
    END IF;
    FOR _view IN
        SELECT c.oid, c.relname FROM pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v'
            AND (c.relname LIKE 'audit\_%' OR c.relname LIKE 'keda\_%')
    LOOP
        IF NOT has_table_privilege(_reader, _view.oid, 'SELECT') THEN
            EXECUTE format('GRANT SELECT ON %I TO sanafarm_reader', _view.relname);
        END IF;
    END LOOP;
END $$;

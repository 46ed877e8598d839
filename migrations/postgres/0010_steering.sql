-- Workers that are asked to leave or leave, how they spend their time, what they logged, and pictures that are taken back.

ALTER TABLE sessions
    -- Somebody asked the worker to leave: when its image in hand is finished, or at its next denoising step.
    ADD COLUMN drain text CHECK (drain IN ('soon', 'now')),
    -- Why the worker leaves, as it said itself.
    ADD COLUMN leaving text,
    -- How it spends its time, as of its last renewal that was written down.
    ADD COLUMN stats jsonb,
    ADD COLUMN stats_at timestamptz;

-- The lists of those claims whose sessions stay; for a session that leaves, or is asked to, a list with nothing in it.
-- Nobody asks one to leave until the claim has ended.
CREATE FUNCTION lists_of_staying(claim_sessions uuid[], claim_lists integer[]) RETURNS integer[]
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM sessions AS w WHERE w.id = ANY (claim_sessions) AND w.closed_at IS NULL
        ORDER BY w.key FOR KEY SHARE;
    RETURN ARRAY(
        SELECT CASE WHEN EXISTS (SELECT FROM (SELECT w.drain, w.leaving FROM sessions AS w
                WHERE w.id = c.session OFFSET 0) AS w WHERE w.drain IS NOT NULL OR w.leaving IS NOT NULL)
            THEN -1 ELSE c.list END
        FROM unnest(claim_sessions, claim_lists) WITH ORDINALITY AS c (session, list, no) ORDER BY c.no);
END $$;

-- Prolongs sessions and those of the leases that they still hold. The numbers of the leases that were prolonged with the
-- last index of each one's shard, the numbers of the sessions that are not known or not open, and how each session is
-- asked to leave. As before, but why they leave and how they spend their time is written down: the latter with the sign
-- of life, which costs no other version of the row, or else every five seconds when it changed.
DROP FUNCTION renew_leases (uuid[], uuid[], uuid[], integer[], text[], timestamptz, timestamptz);
CREATE FUNCTION renew_leases(
    -- One of each a renewal: its session, and what that says of its time and why it leaves, or null.
    renewing uuid[], all_stats text[], reasons text[],
    -- One of each a lease: its session, shard and attempt, and the indices that are being rendered, as an array's text.
    lease_sessions uuid[], lease_shards uuid[], lease_attempts integer[], lease_renderings text[],
    moment timestamptz, expiry timestamptz,
    OUT renewed bigint[], OUT lasts bigint[], OUT unknown bigint[], OUT closed bigint[], OUT drains text[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- A worker that leaves says so in every renewal: the first one counts.
    IF EXISTS (SELECT FROM unnest(reasons) AS r (reason) WHERE r.reason IS NOT NULL) THEN
        WITH gone AS (
            UPDATE sessions AS w SET leaving = r.reason FROM unnest(renewing, reasons) AS r (id, reason)
            WHERE w.id = r.id AND r.reason IS NOT NULL AND w.closed_at IS NULL AND w.leaving IS NULL
            RETURNING w.key, w.leaving)
        INSERT INTO events (at, kind, session, reason)
        SELECT moment, 'worker_leaving', g.key, g.leaving FROM gone AS g ORDER BY g.key;
    END IF;
    UPDATE sessions AS w SET seen_at = moment, stats = coalesce(h.stats, w.stats),
        stats_at = CASE WHEN h.stats IS NULL THEN w.stats_at ELSE moment END
    FROM (
        SELECT w.key, r.stats
        FROM (SELECT n.id, n.stats::jsonb AS stats FROM unnest(renewing, all_stats) AS n (id, stats)) AS r
        CROSS JOIN LATERAL (SELECT w.key FROM sessions AS w
            WHERE w.id = r.id AND w.closed_at IS NULL AND (w.seen_at < moment - interval '1 second'
                OR r.stats <> coalesce(w.stats, '{}')
                    AND coalesce(w.stats_at < moment - interval '5 seconds', true))
            FOR NO KEY UPDATE SKIP LOCKED) AS w) AS h
    WHERE w.key = h.key;
    PERFORM lock_held_leases(ARRAY(SELECT s.key FROM shards AS s WHERE s.id = ANY (lease_shards)));
    WITH held AS MATERIALIZED (
        SELECT h.no, l.row, s.last_index, ARRAY(
            -- Others are not its to name.
            SELECT DISTINCT i.idx FROM unnest(h.rendering::bigint[]) AS i (idx)
            WHERE i.idx BETWEEN s.first_index AND s.last_index ORDER BY i.idx) AS rendering
        FROM unnest(lease_sessions, lease_shards, lease_attempts, lease_renderings) WITH ORDINALITY
            AS h (session, shard, attempt, rendering, no)
        CROSS JOIN LATERAL (SELECT w.key FROM sessions AS w
            WHERE w.id = h.session AND w.closed_at IS NULL OFFSET 0) AS w
        CROSS JOIN LATERAL (SELECT s.key, s.first_index, s.last_index FROM shards AS s
            WHERE s.id = h.shard OFFSET 0) AS s
        CROSS JOIN LATERAL (SELECT l.ctid AS row, l.session, l.ended_at FROM leases AS l
            WHERE l.shard = s.key AND l.attempt = h.attempt OFFSET 0) AS l
        WHERE l.session = w.key AND l.ended_at IS NULL),
    -- Their places are what they were a moment ago: they are locked.
    prolonged AS (
        UPDATE leases AS l SET expires_at = expiry, rendering = h.rendering FROM held AS h WHERE l.ctid = h.row
        RETURNING h.no, h.last_index)
    SELECT array_agg(p.no), array_agg(p.last_index) INTO renewed, lasts FROM prolonged AS p;
    SELECT array_agg(r.no) FILTER (WHERE w.key IS NULL), array_agg(r.no) FILTER (WHERE w.closed_at IS NOT NULL),
            array_agg(w.drain ORDER BY r.no)
        INTO unknown, closed, drains
        FROM unnest(renewing) WITH ORDINALITY AS r (id, no) LEFT JOIN sessions AS w ON w.id = r.id;
END $$;

-- What workers logged about images, by attempt. Only when they logged anything.
CREATE TABLE image_logs (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    -- One an attempt, so that a report sent twice counts once.
    attempt integer NOT NULL,
    session bigint,
    device text NOT NULL,
    log text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (job, idx, attempt)
);

-- Pictures that were taken back, because their objects are lost or damaged and somebody had them rendered again.
CREATE TABLE requeued_results (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    shard bigint NOT NULL,
    attempt integer NOT NULL,
    session bigint,
    device text NOT NULL,
    bytes bigint NOT NULL,
    sha256 bytea NOT NULL,
    recipe json NOT NULL,
    render_seconds double precision,
    decode_seconds double precision,
    finished_at timestamptz NOT NULL,
    requeued_at timestamptz NOT NULL,
    PRIMARY KEY (job, idx, attempt)
);

CREATE TRIGGER image_logs_are_never_changed BEFORE UPDATE OR DELETE ON image_logs
    FOR EACH ROW EXECUTE FUNCTION refuse_change('logs are append-only');
CREATE TRIGGER image_logs_are_never_emptied BEFORE TRUNCATE ON image_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('logs are append-only');
CREATE TRIGGER requeued_results_are_never_changed BEFORE UPDATE OR DELETE ON requeued_results
    FOR EACH ROW EXECUTE FUNCTION refuse_change('what was requeued is append-only');
CREATE TRIGGER requeued_results_are_never_emptied BEFORE TRUNCATE ON requeued_results
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('what was requeued is append-only');

-- A result may give way once it is written down as retried or requeued.
CREATE OR REPLACE FUNCTION refuse_to_delete_result() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'failed' AND EXISTS (SELECT FROM retried_results AS t
            WHERE t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt)
        OR OLD.state = 'done' AND EXISTS (SELECT FROM requeued_results AS t
            WHERE t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt)
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'a result is committed once and for ever';
END $$;

CREATE OR REPLACE VIEW audit_workers AS
SELECT
    w.worker,
    n.version, n.devices, n.labels,
    w.sessions, w.open_sessions, w.first_seen_at, w.last_seen_at,
    coalesce(s.failures, 0) AS failures_in_a_row,
    coalesce(s.exclusions, 0) AS exclusions,
    s.excluded_until,
    n.drain, n.leaving,
    (SELECT avg((d.value ->> 'idle')::double precision) FROM jsonb_array_elements(n.stats -> 'devices') AS d) AS idle,
    (n.stats ->> 'outbox_images')::bigint AS outbox_images,
    nullif(n.stats ->> 'trouble', '') AS trouble,
    n.stats, n.stats_at
FROM (
    SELECT
        worker, max(key) AS newest, count(*) AS sessions, count(*) FILTER (WHERE closed_at IS NULL) AS open_sessions,
        min(opened_at) AS first_seen_at, max(seen_at) AS last_seen_at
    FROM sessions GROUP BY worker) AS w
JOIN sessions AS n ON n.key = w.newest
LEFT JOIN standings AS s ON s.worker = w.worker;

CREATE VIEW audit_logs AS
SELECT
    j.id AS job_id,
    l.idx AS image_index,
    l.attempt,
    w.id AS session_id, w.worker, l.device,
    l.at, l.log
FROM image_logs AS l
JOIN jobs AS j ON j.key = l.job
LEFT JOIN sessions AS w ON w.key = l.session;

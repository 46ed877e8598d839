-- Shards are cut in two when workers wait and others hold more than they can do soon. And that a worker was forgiven is
-- written down.

-- The oldest shard of those that were one once; null for a shard that was never cut. A part is another shard of the same
-- group: its attempts go on from the one that it was cut from, so that an image sees no attempt twice.
ALTER TABLE shards ADD COLUMN cut_from bigint;
-- The shard that a part was cut off.
ALTER TABLE shards ADD COLUMN cut_off bigint;
CREATE INDEX shards_of_cut ON shards (cut_from, first_index) WHERE cut_from IS NOT NULL;

-- A renewal moves no index any more: who has expired is found among those that are held.
DROP INDEX leases_expiring;
ALTER TABLE leases SET (fillfactor = 70);

-- Locks the leases that are held on these shards, in order. A shard is held by its newest attempt or not at all. Leases are
-- looked up one by one here and below, by shard and attempt alone: how many are held changes by the second, and the planner,
-- which believes that there are as few as there were a minute ago, would go through all of them for each.
CREATE FUNCTION lock_held_leases(of_shards bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM (SELECT s.key, s.attempt FROM shards AS s WHERE s.key = ANY (of_shards) ORDER BY s.key) AS s
        CROSS JOIN LATERAL (SELECT FROM leases AS l WHERE l.shard = s.key AND l.attempt = s.attempt
            FOR NO KEY UPDATE) AS l;
END $$;

-- The shard that has an image now which was one of this shard's.
CREATE FUNCTION holding_shard(of_shard bigint, of_idx bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT c.key FROM shards AS s JOIN shards AS c ON c.cut_from = s.cut_from
            WHERE s.key = of_shard AND of_idx BETWEEN c.first_index AND c.last_index),
        of_shard)
$$;

-- Commits pictures, one at least in each report. A report that breaks a rule is refused whole. A row for each report:
-- why it was refused, or the images that were committed for its session and attempt, by this call, and how things stand
-- after it. An image of a part that was cut off its shard is taken too, and counted at that part.
CREATE OR REPLACE FUNCTION commit_pictures(
    -- One of each a report.
    report_sessions uuid[], report_shards uuid[], report_attempts integer[],
    -- One of each a picture: the number of its report and the picture.
    reports integer[], indices bigint[], objects text[], sizes bigint[], hashes bytea[], recipes text[],
    devices text[], renders double precision[], decodes double precision[],
    moment timestamptz)
RETURNS TABLE (
    report integer, shard bigint, refused text, refused_index bigint, assigned text,
    committed bigint[], held boolean, complete boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- One of each a report; 0 for what is not known.
    _jobs bigint[];
    _shards bigint[];
    _groups integer[];
    _firsts bigint[];
    _lasts bigint[];
    _roots bigint[];
    _sessions bigint[];
    _refused text[];
BEGIN
    PERFORM see_sessions(report_sessions, moment);
    PERFORM 1 FROM jobs AS j
        WHERE j.key = ANY (ARRAY(SELECT s.job FROM shards AS s WHERE s.id = ANY (report_shards)))
        ORDER BY j.key FOR NO KEY UPDATE;
    -- Who cuts a shard has locked its job too.
    _shards := ARRAY(
        SELECT s.key FROM shards AS s WHERE s.id = ANY (report_shards)
        UNION
        SELECT p.key FROM shards AS s JOIN shards AS p ON p.cut_from = s.cut_from WHERE s.id = ANY (report_shards));
    PERFORM 1 FROM shards AS s WHERE s.key = ANY (_shards) ORDER BY s.key FOR NO KEY UPDATE;
    PERFORM lock_held_leases(_shards);
    SELECT array_agg(coalesce(s.job, 0) ORDER BY r.no), array_agg(coalesce(s.key, 0) ORDER BY r.no),
        array_agg(coalesce(s.group_no, 0) ORDER BY r.no), array_agg(coalesce(s.first_index, 0) ORDER BY r.no),
        array_agg(coalesce(s.last_index, -1) ORDER BY r.no), array_agg(s.cut_from ORDER BY r.no),
        array_agg(coalesce(w.key, 0) ORDER BY r.no),
        array_agg(CASE WHEN s.key IS NULL THEN 'shard'
            WHEN NOT EXISTS (SELECT FROM leases AS l WHERE l.shard = s.key AND l.attempt = r.attempt) THEN 'attempt' END
            ORDER BY r.no)
        INTO _jobs, _shards, _groups, _firsts, _lasts, _roots, _sessions, _refused
        FROM unnest(report_sessions, report_shards, report_attempts) WITH ORDINALITY AS r (session, shard, attempt, no)
        LEFT JOIN shards AS s ON s.id = r.shard
        LEFT JOIN sessions AS w ON w.id = r.session;
    RETURN QUERY
        WITH given AS MATERIALIZED (
            SELECT p.*,
                -- Looked up one by one, whatever the planner believes of the size of the tables.
                (SELECT i.object FROM images AS i
                    WHERE i.job = _jobs[p.report] AND i.idx = p.idx AND i.group_no = _groups[p.report]
                        AND (i.idx BETWEEN _firsts[p.report] AND _lasts[p.report]
                            OR EXISTS (SELECT FROM shards AS c WHERE c.cut_from = _roots[p.report]
                                AND i.idx BETWEEN c.first_index AND c.last_index))) AS assigned
            FROM unnest(reports, indices, objects, sizes, hashes, recipes, devices, renders, decodes) WITH ORDINALITY
                AS p (report, idx, object, bytes, sha256, recipe, device, render_seconds, decode_seconds, no)
            WHERE _refused[p.report] IS NULL),
        wrong AS MATERIALIZED (
            SELECT DISTINCT ON (g.report) g.report, g.idx, g.assigned FROM given AS g
            WHERE g.assigned IS DISTINCT FROM g.object ORDER BY g.report, g.no),
        fresh AS (
            INSERT INTO results (job, idx, state, shard, attempt, session, device, bytes, sha256, recipe,
                render_seconds, decode_seconds, finished_at)
            SELECT _jobs[g.report], g.idx, 'done', _shards[g.report], report_attempts[g.report],
                nullif(_sessions[g.report], 0), g.device, g.bytes, g.sha256, g.recipe::json, g.render_seconds,
                g.decode_seconds, moment
            FROM given AS g
            WHERE NOT EXISTS (SELECT FROM wrong AS x WHERE x.report = g.report)
            ON CONFLICT (job, idx) DO NOTHING
            RETURNING job, idx, shard, attempt, session),
        by_attempt AS MATERIALIZED (
            SELECT f.shard, f.attempt, coalesce(f.session, 0) AS session, count(*)::integer AS images,
                array_agg(f.idx) AS indices
            FROM fresh AS f GROUP BY f.shard, f.attempt, f.session),
        counted AS (
            UPDATE jobs AS j SET done = j.done + c.images
            FROM (SELECT f.job, count(*) AS images FROM fresh AS f GROUP BY f.job) AS c
            WHERE j.key = c.job
            RETURNING j.key, j.done + j.failed = j.images AND j.state IN ('pending', 'running', 'paused') AS complete),
        -- By the shard that has the image now.
        placed AS (
            SELECT a.shard, a.images FROM by_attempt AS a JOIN shards AS s ON s.key = a.shard WHERE s.cut_from IS NULL
            UNION ALL
            SELECT c.key, 1 FROM by_attempt AS a JOIN shards AS s ON s.key = a.shard
            CROSS JOIN LATERAL unnest(a.indices) AS i (idx)
            JOIN shards AS c ON c.cut_from = s.cut_from AND i.idx BETWEEN c.first_index AND c.last_index),
        moved AS (
            UPDATE shards AS s SET remaining = s.remaining - c.images,
                state = CASE WHEN s.remaining = c.images THEN 'done' ELSE s.state END
            FROM (SELECT p.shard, sum(p.images)::integer AS images FROM placed AS p GROUP BY p.shard) AS c
            WHERE s.key = c.shard
            RETURNING s.key, s.attempt, s.remaining = 0 AS done),
        -- As they were before this statement.
        ending AS MATERIALIZED (
            SELECT l.shard, l.attempt, l.session, l.job
            FROM moved AS m CROSS JOIN LATERAL (SELECT h.* FROM leases AS h
                WHERE h.shard = m.key AND h.attempt = m.attempt OFFSET 0) AS l
            WHERE m.done AND l.ended_at IS NULL),
        -- There is nothing left to do under a lease on a shard that is done, whoever holds it.
        ended AS (
            UPDATE leases AS l SET
                done = l.done + coalesce((SELECT sum(a.images) FROM by_attempt AS a
                    WHERE a.shard = l.shard AND a.attempt = l.attempt), 0),
                ended_at = CASE WHEN m.done THEN coalesce(l.ended_at, moment) ELSE l.ended_at END,
                outcome = CASE WHEN m.done THEN coalesce(l.outcome, 'finished') ELSE l.outcome END
            FROM (SELECT x.key, x.done FROM moved AS x
                UNION ALL
                SELECT DISTINCT a.shard, false FROM by_attempt AS a
                WHERE NOT EXISTS (SELECT FROM moved AS x WHERE x.key = a.shard)) AS m
            WHERE l.shard = m.key AND (l.ended_at IS NULL AND m.done
                OR EXISTS (SELECT FROM by_attempt AS a WHERE a.shard = l.shard AND a.attempt = l.attempt))),
        -- A worker that rendered an image stands as well as any.
        forgiven AS (
            DELETE FROM standings AS t USING generate_subscripts(report_shards, 1) AS n (report), sessions AS w
            WHERE w.key = _sessions[n.report] AND NOT w.embedded AND t.worker = w.worker
                AND _refused[n.report] IS NULL AND NOT EXISTS (SELECT FROM wrong AS x WHERE x.report = n.report)
            RETURNING w.key AS session, t.exclusions),
        in_again AS (
            INSERT INTO events (at, kind, session, detail, actor)
            SELECT moment, 'worker_forgiven', f.session, jsonb_build_object('times', f.exclusions), 'coordinator'
            FROM forgiven AS f WHERE f.exclusions > 0),
        told AS (
            INSERT INTO events (at, kind, job, shard, attempt, session)
            SELECT moment, 'lease_finished', e.job, e.shard, e.attempt, e.session FROM ending AS e ORDER BY e.shard)
        SELECT n.report, _shards[n.report],
            coalesce(_refused[n.report],
                CASE WHEN x.report IS NULL THEN NULL WHEN x.assigned IS NULL THEN 'image' ELSE 'object' END),
            x.idx, x.assigned, a.indices,
            EXISTS (SELECT FROM (SELECT l.session, l.ended_at FROM leases AS l
                    WHERE l.shard = _shards[n.report] AND l.attempt = report_attempts[n.report] OFFSET 0) AS l
                    WHERE l.session = _sessions[n.report] AND l.ended_at IS NULL)
                AND NOT EXISTS (SELECT FROM moved AS m WHERE m.key = _shards[n.report] AND m.done),
            coalesce((SELECT c.complete FROM counted AS c WHERE c.key = _jobs[n.report]),
                (SELECT j.done + j.failed = j.images AND j.state IN ('pending', 'running', 'paused')
                    FROM jobs AS j WHERE j.key = _jobs[n.report]),
                false)
        FROM generate_subscripts(report_shards, 1) AS n (report)
        LEFT JOIN wrong AS x ON x.report = n.report
        LEFT JOIN by_attempt AS a ON a.shard = _shards[n.report] AND a.attempt = report_attempts[n.report]
            AND a.session = _sessions[n.report]
        ORDER BY n.report;
END $$;

-- Prolongs sessions and those of the leases that they still hold. The numbers of the leases that were prolonged with the
-- last index of each one's shard, and the numbers of the sessions that are not known or not open.
DROP FUNCTION renew_leases (uuid[], uuid[], uuid[], integer[], text[], timestamptz, timestamptz);
CREATE FUNCTION renew_leases(
    renewing uuid[],
    -- One of each a lease: its session, shard and attempt, and the indices that are being rendered, as an array's text.
    lease_sessions uuid[], lease_shards uuid[], lease_attempts integer[], lease_renderings text[],
    moment timestamptz, expiry timestamptz,
    OUT renewed bigint[], OUT lasts bigint[], OUT unknown bigint[], OUT closed bigint[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM see_sessions(renewing, moment);
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
    SELECT array_agg(r.no) FILTER (WHERE w.key IS NULL), array_agg(r.no) FILTER (WHERE w.closed_at IS NOT NULL)
        INTO unknown, closed
        FROM unnest(renewing) WITH ORDINALITY AS r (id, no) LEFT JOIN sessions AS w ON w.id = r.id;
END $$;

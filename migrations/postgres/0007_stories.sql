-- What the stories of workers are read by, and that a worker was forgiven is written down.

CREATE INDEX events_by_session ON events (session, seq) WHERE session IS NOT NULL;
-- Names may be longer than an entry of a tree: hence a hash.
CREATE INDEX sessions_by_worker ON sessions USING hash (worker);

-- Commits pictures, one at least in each report. A report that breaks a rule is refused whole. A row for each report: why it was refused, or the
-- images that were committed for its session and attempt, by this call, and how things stand after it.
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
    _sessions bigint[];
    _refused text[];
BEGIN
    PERFORM see_sessions(report_sessions, moment);
    PERFORM 1 FROM jobs AS j
        WHERE j.key = ANY (ARRAY(SELECT s.job FROM shards AS s WHERE s.id = ANY (report_shards)))
        ORDER BY j.key FOR NO KEY UPDATE;
    PERFORM 1 FROM shards AS s WHERE s.id = ANY (report_shards) ORDER BY s.key FOR NO KEY UPDATE;
    PERFORM 1 FROM leases AS l
        WHERE l.shard = ANY (ARRAY(SELECT s.key FROM shards AS s WHERE s.id = ANY (report_shards)))
            AND l.ended_at IS NULL
        ORDER BY l.shard FOR NO KEY UPDATE;
    SELECT array_agg(coalesce(s.job, 0) ORDER BY r.no), array_agg(coalesce(s.key, 0) ORDER BY r.no),
        array_agg(coalesce(s.group_no, 0) ORDER BY r.no), array_agg(coalesce(s.first_index, 0) ORDER BY r.no),
        array_agg(coalesce(s.last_index, -1) ORDER BY r.no), array_agg(coalesce(w.key, 0) ORDER BY r.no),
        array_agg(CASE WHEN s.key IS NULL THEN 'shard' WHEN r.attempt NOT BETWEEN 1 AND s.attempt THEN 'attempt' END
            ORDER BY r.no)
        INTO _jobs, _shards, _groups, _firsts, _lasts, _sessions, _refused
        FROM unnest(report_sessions, report_shards, report_attempts) WITH ORDINALITY AS r (session, shard, attempt, no)
        LEFT JOIN shards AS s ON s.id = r.shard
        LEFT JOIN sessions AS w ON w.id = r.session;
    RETURN QUERY
        WITH given AS MATERIALIZED (
            SELECT p.*,
                -- Looked up one by one, whatever the planner believes of the size of the tables.
                (SELECT i.object FROM images AS i
                    WHERE i.job = _jobs[p.report] AND i.idx = p.idx AND i.group_no = _groups[p.report]
                        AND i.idx BETWEEN _firsts[p.report] AND _lasts[p.report]) AS assigned
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
        moved AS (
            UPDATE shards AS s SET remaining = s.remaining - c.images,
                state = CASE WHEN s.remaining = c.images THEN 'done' ELSE s.state END
            FROM (SELECT a.shard, sum(a.images)::integer AS images FROM by_attempt AS a GROUP BY a.shard) AS c
            WHERE s.key = c.shard
            RETURNING s.key, s.remaining = 0 AS done),
        -- As they were before this statement.
        ending AS MATERIALIZED (
            SELECT l.shard, l.attempt, l.session, l.job
            FROM moved AS m JOIN leases AS l ON l.shard = m.key AND l.ended_at IS NULL WHERE m.done),
        -- There is nothing left to do under a lease on a shard that is done, whoever holds it.
        ended AS (
            UPDATE leases AS l SET
                done = l.done + coalesce((SELECT sum(a.images) FROM by_attempt AS a
                    WHERE a.shard = l.shard AND a.attempt = l.attempt), 0),
                ended_at = CASE WHEN m.done THEN coalesce(l.ended_at, moment) ELSE l.ended_at END,
                outcome = CASE WHEN m.done THEN coalesce(l.outcome, 'finished') ELSE l.outcome END
            FROM moved AS m
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
            EXISTS (SELECT FROM leases AS l WHERE l.shard = _shards[n.report] AND l.attempt = report_attempts[n.report]
                    AND l.session = _sessions[n.report] AND l.ended_at IS NULL)
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

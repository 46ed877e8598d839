-- Jobs that wait for other jobs, and jobs that end at a time.

-- What is not rendered by then is not rendered.
ALTER TABLE jobs ADD COLUMN deadline timestamptz;
-- Why it was cancelled, as whoever did it said; null for any other end.
ALTER TABLE jobs ADD COLUMN end_reason text;

CREATE INDEX jobs_due ON jobs (deadline)
    WHERE deadline IS NOT NULL AND state IN ('pending', 'running', 'paused') AND sealed_at IS NOT NULL;
CREATE INDEX jobs_unstarted ON jobs (key)
    WHERE state IN ('pending', 'paused') AND started_at IS NULL AND sealed_at IS NOT NULL;

-- Nothing of a job is leased first before each of these has succeeded, or has ended in any way.
CREATE TABLE job_dependencies (
    job bigint NOT NULL REFERENCES jobs (key),
    -- Older than the job: there are no circles.
    needs_job bigint NOT NULL REFERENCES jobs (key),
    -- Any end will do.
    any_end boolean NOT NULL,
    PRIMARY KEY (job, needs_job),
    CHECK (needs_job < job)
);

CREATE INDEX job_dependencies_by_needed ON job_dependencies (needs_job);

CREATE OR REPLACE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs,
    extract(epoch FROM started_at - sealed_at)::double precision AS waited_seconds,
    extract(epoch FROM finished_at - started_at)::double precision AS ran_seconds,
    deadline,
    (SELECT jsonb_agg(n.id ORDER BY n.key) FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND NOT d.any_end) AS after_jobs,
    (SELECT jsonb_agg(n.id ORDER BY n.key) FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND d.any_end) AS after_any_jobs,
    end_reason
FROM jobs
WHERE sealed_at IS NOT NULL;

-- Gives shards to sessions that want one and whose workers were not taken out. A row for each claim that got one, and
-- for each whose session is not open. As before, but of a job whose deadline has passed, or that waits for others,
-- nothing is given.
CREATE OR REPLACE FUNCTION claim_shards(
    -- One of each a claim: its session, and the number of its list of choices.
    claim_sessions uuid[], claim_lists integer[],
    -- One of each a choice, the best of a list first: the number of its list, the job, a settings group or null.
    choice_lists integer[], choice_jobs uuid[], choice_groups integer[],
    moment timestamptz, expiry timestamptz)
RETURNS TABLE (
    claim integer, known boolean, open boolean,
    shard uuid, attempt integer, whole boolean, started_job boolean,
    job_key bigint, group_no integer, first_index bigint, last_index bigint, mixed_from bigint,
    job uuid, name text, model text, output text, negative_prompt text,
    width integer, height integer, steps integer, guidance double precision, bin text, decode text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _list integer;
    _choice record;
    _job record;
    -- Claims of the list that have nothing yet, and their sessions.
    _waiting integer[];
    _sessions bigint[];
    _ready bigint[];
    _starts boolean;
BEGIN
    PERFORM see_sessions(claim_sessions, moment);
    -- Nobody closes them until this has ended.
    PERFORM 1 FROM sessions AS w WHERE w.id = ANY (claim_sessions) AND w.closed_at IS NULL
        ORDER BY w.key FOR KEY SHARE;
    RETURN QUERY
        SELECT c.no::integer, w.key IS NOT NULL, false, NULL::uuid, NULL::integer, NULL::boolean, NULL::boolean,
            NULL::bigint, NULL::integer, NULL::bigint, NULL::bigint, NULL::bigint, NULL::uuid, NULL, NULL, NULL, NULL,
            NULL::integer, NULL::integer, NULL::integer, NULL::double precision, NULL, NULL
        FROM unnest(claim_sessions) WITH ORDINALITY AS c (session, no)
        LEFT JOIN sessions AS w ON w.id = c.session
        WHERE w.key IS NULL OR w.closed_at IS NOT NULL;
    FOR _list IN SELECT DISTINCT l.list FROM unnest(claim_lists) AS l (list) ORDER BY l.list LOOP
        SELECT array_agg(c.no ORDER BY c.no), array_agg(w.key ORDER BY c.no) INTO _waiting, _sessions
            FROM unnest(claim_sessions, claim_lists) WITH ORDINALITY AS c (session, list, no)
            JOIN sessions AS w ON w.id = c.session AND w.closed_at IS NULL
            WHERE c.list = _list AND NOT EXISTS (SELECT FROM standings AS t
                WHERE t.worker = w.worker AND t.excluded_until > moment);
        FOR _choice IN
            SELECT c.job, c.group_no FROM unnest(choice_lists, choice_jobs, choice_groups) WITH ORDINALITY
                AS c (list, job, group_no, no)
            WHERE c.list = _list ORDER BY c.no
        LOOP
            EXIT WHEN coalesce(cardinality(_waiting), 0) = 0;
            SELECT j.key, j.state INTO _job FROM jobs AS j
                WHERE j.id = _choice.job AND j.state IN ('pending', 'running') AND j.sealed_at IS NOT NULL
                    AND (j.deadline IS NULL OR j.deadline > moment)
                    -- What it waits for is asked before its first lease only.
                    AND (j.started_at IS NOT NULL OR NOT EXISTS (
                        SELECT FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
                        WHERE d.job = j.key AND n.state <> 'succeeded'
                            AND NOT (d.any_end AND n.state IN ('failed', 'cancelled')) OFFSET 0))
                FOR KEY SHARE OF j;
            CONTINUE WHEN NOT FOUND;
            -- Two statements, for there is an index for each.
            IF _choice.group_no IS NULL THEN
                _ready := ARRAY(
                    SELECT s.key FROM shards AS s
                    WHERE s.job = _job.key AND s.state = 'ready' AND s.not_before <= moment
                    ORDER BY s.key LIMIT cardinality(_waiting) FOR NO KEY UPDATE SKIP LOCKED);
            ELSE
                _ready := ARRAY(
                    SELECT s.key FROM shards AS s
                    WHERE s.job = _job.key AND s.group_no = _choice.group_no AND s.state = 'ready'
                        AND s.not_before <= moment
                    ORDER BY s.key LIMIT cardinality(_waiting) FOR NO KEY UPDATE SKIP LOCKED);
            END IF;
            CONTINUE WHEN cardinality(_ready) = 0;
            _starts := _job.state = 'pending';
            IF _starts THEN
                UPDATE jobs SET state = 'running', started_at = coalesce(started_at, moment)
                    WHERE key = _job.key AND state = 'pending';
                _starts := FOUND;
            END IF;
            RETURN QUERY
                WITH taken AS (
                    UPDATE shards SET state = 'leased', attempt = attempt + 1 WHERE key = ANY (_ready)
                    RETURNING key, id, job, group_no, first_index, last_index, images, remaining, attempt),
                given AS MATERIALIZED (
                    SELECT t.*, (row_number() OVER (ORDER BY t.key))::integer AS no FROM taken AS t),
                leased AS (
                    INSERT INTO leases (shard, attempt, session, job, images, granted_at, expires_at)
                    SELECT g.key, g.attempt, _sessions[g.no], g.job, g.images, moment, expiry FROM given AS g),
                told AS (
                    INSERT INTO events (at, kind, job, shard, attempt, session)
                    SELECT moment, 'lease_granted', g.job, g.key, g.attempt, _sessions[g.no] FROM given AS g
                    ORDER BY g.no)
                SELECT _waiting[g.no], true, true, g.id, g.attempt, g.remaining = g.images, _starts AND g.no = 1,
                    g.job, g.group_no, g.first_index, g.last_index, j.mixed_from,
                    j.id, j.name, j.model, j.output, j.negative_prompt,
                    s.width, s.height, s.steps, s.guidance, s.bin, s.decode
                FROM given AS g
                JOIN jobs AS j ON j.key = g.job
                JOIN settings_groups AS s ON s.job = g.job AND s.group_no = g.group_no;
            IF _starts THEN
                INSERT INTO events (at, kind, job) VALUES (moment, 'job_started', _job.key);
            END IF;
            _sessions := _sessions[cardinality(_ready) + 1:];
            _waiting := _waiting[cardinality(_ready) + 1:];
        END LOOP;
    END LOOP;
END $$;

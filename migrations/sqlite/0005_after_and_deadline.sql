-- Jobs that wait for other jobs, and jobs that end at a time.

-- What is not rendered by then is not rendered.
ALTER TABLE jobs ADD COLUMN deadline TEXT;
-- Why it was cancelled, as whoever did it said; null for any other end.
ALTER TABLE jobs ADD COLUMN end_reason TEXT;

CREATE INDEX jobs_due ON jobs (deadline)
    WHERE deadline IS NOT NULL AND state IN ('pending', 'running', 'paused') AND sealed_at IS NOT NULL;
CREATE INDEX jobs_unstarted ON jobs (key)
    WHERE state IN ('pending', 'paused') AND started_at IS NULL AND sealed_at IS NOT NULL;

-- Nothing of a job is leased first before each of these has succeeded, or has ended in any way.
CREATE TABLE job_dependencies (
    job INTEGER NOT NULL REFERENCES jobs (key),
    -- Older than the job: there are no circles.
    needs_job INTEGER NOT NULL REFERENCES jobs (key),
    -- 1 when any end will do.
    any_end INTEGER NOT NULL CHECK (any_end IN (0, 1)),
    PRIMARY KEY (job, needs_job),
    CHECK (needs_job < job)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_dependencies_by_needed ON job_dependencies (needs_job);

DROP VIEW audit_jobs;
CREATE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs,
    (julianday(started_at) - julianday(sealed_at)) * 86400 AS waited_seconds,
    (julianday(finished_at) - julianday(started_at)) * 86400 AS ran_seconds,
    deadline,
    -- In order of age; of no rows the array is empty.
    nullif((SELECT json_group_array(a.id) FROM (
        SELECT n.id FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND d.any_end = 0 ORDER BY n.key) AS a), '[]') AS after_jobs,
    nullif((SELECT json_group_array(a.id) FROM (
        SELECT n.id FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND d.any_end = 1 ORDER BY n.key) AS a), '[]') AS after_any_jobs,
    end_reason
FROM jobs
WHERE sealed_at IS NOT NULL;

-- Workers that refuse a job for a while: they cannot write to its output, or not load its model. Others go on with it.

CREATE TABLE refusals (
    job INTEGER NOT NULL REFERENCES jobs (key),
    worker TEXT NOT NULL,
    why TEXT NOT NULL,
    -- Since it was last without one for a long time.
    times INTEGER NOT NULL CHECK (times > 0),
    -- The worker gets nothing of the job before.
    until TEXT NOT NULL,
    PRIMARY KEY (job, worker)
) STRICT, WITHOUT ROWID;

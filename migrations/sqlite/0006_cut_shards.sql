-- Shards are cut in two when workers wait and others hold more than they can do soon.

-- The oldest shard of those that were one once; null for a shard that was never cut. A part is another shard of the same
-- group: its attempts go on from the one that it was cut from, so that an image sees no attempt twice.
ALTER TABLE shards ADD COLUMN cut_from INTEGER;
-- The shard that a part was cut off.
ALTER TABLE shards ADD COLUMN cut_off INTEGER;
CREATE INDEX shards_of_cut ON shards (cut_from, first_index) WHERE cut_from IS NOT NULL;

DROP VIEW audit_attempts;
CREATE VIEW audit_attempts AS
SELECT
    j.id AS job_id,
    s.id AS shard_id,
    l.attempt,
    s.first_index, s.last_index, s.images,
    w.id AS session_id, w.worker, w.version,
    l.granted_at, l.expires_at, l.ended_at,
    coalesce(l.outcome, 'held') AS outcome,
    l.rendering,
    -- From the images of the shard: between its indices there may be many of other shards. (With BETWEEN the
    -- planner leaves the upper bound out.) An attempt may have rendered what was cut off meanwhile.
    (SELECT count(*) FROM images AS i INDEXED BY images_by_group
        CROSS JOIN results AS r ON r.job = i.job AND r.idx = i.idx
        WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index AND i.idx <= coalesce(
                (SELECT max(c.last_index) FROM shards AS c WHERE c.cut_from = s.cut_from), s.last_index)
            AND r.shard = s.key AND r.attempt = l.attempt AND r.state = 'done') AS done,
    (SELECT count(*) FROM images AS i INDEXED BY images_by_group
        CROSS JOIN image_errors AS e ON e.job = i.job AND e.idx = i.idx
        WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index AND i.idx <= coalesce(
                (SELECT max(c.last_index) FROM shards AS c WHERE c.cut_from = s.cut_from), s.last_index)
            AND e.attempt = l.attempt AND (s.cut_from IS NULL OR e.session = l.session)) AS errors,
    CASE WHEN l.ended_at IS NULL THEN NULL ELSE (julianday(l.ended_at) - julianday(l.granted_at)) * 86400 END AS held_seconds
FROM leases AS l
JOIN shards AS s ON s.key = l.shard
JOIN jobs AS j ON j.key = s.job
JOIN sessions AS w ON w.key = l.session;

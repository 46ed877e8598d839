-- Images that have a result and those that have none apart: whoever asks for the failed ones of a job, or the done ones, is
-- not led through all of its images.

CREATE OR REPLACE VIEW audit_images AS
SELECT
    j.id AS job_id,
    i.idx AS image_index,
    r.state,
    coalesce(i.prompt, f.prompt) AS prompt,
    coalesce(i.negative_prompt, f.negative_prompt, j.negative_prompt) AS negative_prompt,
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    r.recipe ->> 'weights_sha256' AS weights_sha256,
    j.output,
    i.object,
    r.bytes, encode(r.sha256, 'hex') AS sha256,
    coalesce(i.prompt_id, f.prompt_id) AS prompt_id,
    coalesce(i.line, f.line) AS line,
    coalesce(i.extra, f.extra) AS extra,
    s.id AS shard_id, r.attempt,
    w.id AS session_id, w.worker, r.device,
    r.render_seconds, r.decode_seconds,
    r.error_class, r.error,
    coalesce(o.errors, 0) AS errors, coalesce(o.losses, 0) AS losses,
    r.recipe,
    r.finished_at
FROM results AS r
JOIN images AS i ON i.job = r.job AND i.idx = r.idx
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
-- The first image of the same row, for copies.
LEFT JOIN images AS f ON f.job = i.job AND f.idx = CASE WHEN i.copy > 0 THEN i.idx - i.copy END
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN image_faults AS o ON o.job = i.job AND o.idx = i.idx
LEFT JOIN shards AS s ON s.key = r.shard
LEFT JOIN sessions AS w ON w.key = r.session
UNION ALL
SELECT
    j.id,
    i.idx,
    'pending',
    coalesce(i.prompt, f.prompt),
    coalesce(i.negative_prompt, f.negative_prompt, j.negative_prompt),
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    NULL,
    j.output,
    i.object,
    NULL, NULL,
    coalesce(i.prompt_id, f.prompt_id),
    coalesce(i.line, f.line),
    coalesce(i.extra, f.extra),
    NULL, NULL,
    NULL, NULL, NULL,
    NULL, NULL,
    NULL, NULL,
    coalesce(o.errors, 0), coalesce(o.losses, 0),
    NULL, NULL
FROM images AS i
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
-- The first image of the same row, for copies.
LEFT JOIN images AS f ON f.job = i.job AND f.idx = CASE WHEN i.copy > 0 THEN i.idx - i.copy END
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN image_faults AS o ON o.job = i.job AND o.idx = i.idx
WHERE NOT EXISTS (SELECT FROM results AS r WHERE r.job = i.job AND r.idx = i.idx);

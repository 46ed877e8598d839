-- Tokens: who may call a coordinator. Of their secrets only the hashes are kept.

CREATE TABLE tokens (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('admin', 'submit', 'read', 'worker')),
    -- Whose jobs it is about; null for all, or none.
    owner TEXT,
    -- The only worker that it may be used by.
    worker TEXT,
    -- SHA-256 of the secret, and of the one before while that is still good.
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    old_hash BLOB CHECK (length(old_hash) = 32),
    old_expires_at TEXT,
    created_at TEXT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at TEXT,
    last_used_at TEXT,
    rotated_at TEXT,
    revoked_at TEXT
) STRICT;

CREATE TRIGGER tokens_stay_what_they_are BEFORE UPDATE ON tokens
WHEN OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NOT OLD.revoked_at
    OR NEW.role IS NOT OLD.role OR NEW.owner IS NOT OLD.owner OR NEW.worker IS NOT OLD.worker
BEGIN
    SELECT RAISE(ABORT, 'a token stays what it is, and a revoked one stays revoked');
END;

CREATE TRIGGER tokens_are_never_deleted BEFORE DELETE ON tokens
BEGIN
    SELECT RAISE(ABORT, 'tokens are revoked, never deleted');
END;

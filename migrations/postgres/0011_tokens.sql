-- Tokens: who may call a coordinator. Of their secrets only the hashes are kept.

CREATE TABLE tokens (
    id text PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('admin', 'submit', 'read', 'worker')),
    -- Whose jobs it is about; null for all, or none.
    owner text,
    -- The only worker that it may be used by.
    worker text,
    -- SHA-256 of the secret, and of the one before while that is still good.
    hash bytea NOT NULL CHECK (length(hash) = 32),
    old_hash bytea CHECK (length(old_hash) = 32),
    old_expires_at timestamptz,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    rotated_at timestamptz,
    revoked_at timestamptz
);

CREATE FUNCTION refuse_to_revive_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at
        OR (NEW.role, NEW.owner, NEW.worker) IS DISTINCT FROM (OLD.role, OLD.owner, OLD.worker)
    THEN
        RAISE EXCEPTION 'a token stays what it is, and a revoked one stays revoked';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER tokens_stay_what_they_are BEFORE UPDATE ON tokens
    FOR EACH ROW EXECUTE FUNCTION refuse_to_revive_token();
CREATE TRIGGER tokens_are_never_deleted BEFORE DELETE ON tokens
    FOR EACH ROW EXECUTE FUNCTION refuse_change('tokens are revoked, never deleted');
CREATE TRIGGER tokens_are_never_emptied BEFORE TRUNCATE ON tokens
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('tokens are revoked, never deleted');

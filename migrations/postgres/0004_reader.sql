-- The role of analysts: it reads the documented views and nothing else. Made here when the coordinator's own role may
-- make roles; docs/sql.md tells how an administrator makes it otherwise.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sanafarm_reader') THEN
        CREATE ROLE sanafarm_reader NOLOGIN;
    END IF;
    IF NOT pg_has_role(current_user, 'sanafarm_reader', 'MEMBER') THEN
        EXECUTE format('GRANT sanafarm_reader TO %I', current_user);
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'the role sanafarm_reader is for an administrator to make';
    -- Roles belong to the whole server: another database made it at the same moment.
    WHEN duplicate_object OR unique_violation THEN
        NULL;
END $$;

-- Shows the role, when there is one, the views that it cannot read yet. Called by every coordinator that starts.
CREATE FUNCTION admit_reader() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    _reader oid := (SELECT oid FROM pg_roles WHERE rolname = 'sanafarm_reader');
    _view record;
BEGIN
    IF _reader IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(1396788802, 0);
    IF NOT has_schema_privilege(_reader, current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO sanafarm_reader', current_schema());
    END IF;
    FOR _view IN
        SELECT c.oid, c.relname FROM pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v' AND c.relname LIKE 'audit\_%'
    LOOP
        IF NOT has_table_privilege(_reader, _view.oid, 'SELECT') THEN
            EXECUTE format('GRANT SELECT ON %I TO sanafarm_reader', _view.relname);
        END IF;
    END LOOP;
END $$;

-- One row per attempt to register: written before the provider is asked, so that a crash at any instant leaves something to resume.
-- Its id is also the mark that the user carries at the provider. No password is ever in it (security.md RG-08), and who it was about
-- is erased as soon as the attempt is over.
CREATE TABLE registrations (
    id               TEXT   NOT NULL PRIMARY KEY,
    -- SHA-256 of the client's Idempotency-Key, and of what came with it: the same key stands for the same person only.
    idempotency_hash BYTEA,
    fingerprint      BYTEA,
    provider         TEXT   NOT NULL,
    issuer           TEXT   NOT NULL,
    username         TEXT   NOT NULL,
    email            TEXT   NOT NULL,
    -- Names and attributes as JSON.
    person           TEXT   NOT NULL,
    -- pending, created, undoing; finished, undone, failed are over.
    state            TEXT   NOT NULL,
    subject          TEXT,
    user_id          TEXT,
    -- Whoever works on it, and until when nobody else may: a new claim has a new owner, which fences off the old one.
    owner            TEXT   NOT NULL,
    next_try_at      BIGINT NOT NULL,
    attempts         BIGINT NOT NULL,
    -- Looks at the provider that found nobody; one alone proves nothing while a call may still be under way.
    absences         BIGINT NOT NULL,
    error            TEXT,
    -- Where it came from (an IPv4 address, an IPv6 /64), for the rate limit.
    network          TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    changed_at       BIGINT NOT NULL,
    CONSTRAINT registrations_idempotency UNIQUE (idempotency_hash)
);
CREATE INDEX registrations_work ON registrations (state, next_try_at);
CREATE INDEX registrations_changed_at ON registrations (changed_at);
CREATE INDEX registrations_network ON registrations (network, created_at);

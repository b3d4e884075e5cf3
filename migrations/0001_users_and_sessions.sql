-- One text for SQLite and PostgreSQL: only TEXT, BIGINT (Unix milliseconds), BOOLEAN and BYTEA; lists and
-- the app's data are JSON in TEXT.

-- The app may read this table and reference users(id). Identity is (provider, issuer, subject).
CREATE TABLE users (
    id                  TEXT    NOT NULL PRIMARY KEY,
    provider            TEXT    NOT NULL,
    issuer              TEXT    NOT NULL,
    subject             TEXT    NOT NULL,
    email               TEXT,
    -- The e-mail in lower case, to notice two users with one address.
    -- Not unique: e-mail never links or locks out.
    email_folded        TEXT,
    email_verified      BOOLEAN NOT NULL,
    username            TEXT,
    first_name          TEXT,
    last_name           TEXT,
    display_name        TEXT,
    nickname            TEXT,
    picture_url         TEXT,
    usertag             TEXT    NOT NULL,
    locale              TEXT,
    tenant_id           TEXT,
    roles               TEXT    NOT NULL,
    groups              TEXT    NOT NULL,
    local_roles         TEXT    NOT NULL,
    is_active           BOOLEAN NOT NULL,
    status              TEXT    NOT NULL,
    has_app_access      BOOLEAN NOT NULL,
    created_at          BIGINT  NOT NULL,
    updated_at          BIGINT  NOT NULL,
    last_login_at       BIGINT,
    login_count         BIGINT  NOT NULL,
    provider_updated_at BIGINT,
    synced_at           BIGINT  NOT NULL,
    deleted_at          BIGINT,
    app_data            TEXT    NOT NULL,
    CONSTRAINT users_identity UNIQUE (provider, issuer, subject),
    CONSTRAINT users_usertag UNIQUE (usertag)
);
CREATE INDEX users_email_folded ON users (email_folded);

-- key_hash is the SHA-256 of the browser's key; the tokens are sealed
-- (see crypto). Ending a session erases its tokens.
CREATE TABLE sessions (
    id                  TEXT    NOT NULL PRIMARY KEY,
    kind                TEXT    NOT NULL,
    key_hash            BYTEA   NOT NULL,
    user_id             TEXT    NOT NULL REFERENCES users (id),
    provider            TEXT    NOT NULL,
    issuer              TEXT    NOT NULL,
    provider_session_id TEXT,
    access_token        BYTEA,
    refresh_token       BYTEA,
    id_token            BYTEA,
    token_expires_at    BIGINT,
    refresh_expires_at  BIGINT,
    ip                  TEXT,
    user_agent          TEXT,
    created_at          BIGINT  NOT NULL,
    last_active_at      BIGINT  NOT NULL,
    expires_at          BIGINT  NOT NULL,
    revoked_at          BIGINT,
    generation          BIGINT  NOT NULL,
    changed_at          BIGINT  NOT NULL,
    auth_time           BIGINT,
    acr                 TEXT,
    scope               TEXT,
    CONSTRAINT sessions_key_hash UNIQUE (key_hash)
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_sid ON sessions (provider, provider_session_id);
CREATE INDEX sessions_changed_at ON sessions (changed_at);
-- The three ways to be dead, for removal in bounded batches.
CREATE INDEX sessions_expires_at ON sessions (expires_at);
CREATE INDEX sessions_last_active_at ON sessions (last_active_at);
CREATE INDEX sessions_revoked_at ON sessions (revoked_at);

-- Login attempts that were finished: the SHA-256 of their state.
-- The unique key makes each of them single use.
CREATE TABLE used_attempts (
    state_hash BYTEA  NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX used_attempts_expires_at ON used_attempts (expires_at);

-- Doorward's own keys, salts and canaries: made once, shared by all replicas.
CREATE TABLE own_keys (
    name       TEXT    NOT NULL PRIMARY KEY,
    value      BYTEA   NOT NULL,
    sealed     BOOLEAN NOT NULL,
    created_at BIGINT  NOT NULL
);

-- No reference to users: what was done stays readable after the person is gone.
CREATE TABLE audit_log (
    id          TEXT   NOT NULL PRIMARY KEY,
    at          BIGINT NOT NULL,
    request_id  TEXT,
    address     TEXT,
    provider    TEXT,
    user_id     TEXT,
    session_ref TEXT,
    event       TEXT   NOT NULL,
    outcome     TEXT   NOT NULL,
    reason      TEXT,
    detail      TEXT   NOT NULL
);
CREATE INDEX audit_log_at ON audit_log (at);

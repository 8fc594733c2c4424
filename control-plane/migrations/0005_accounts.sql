-- People who sign in. Times are milliseconds since 1970.
CREATE TABLE accounts (
    id            TEXT    PRIMARY KEY NOT NULL,
    email         TEXT    NOT NULL UNIQUE, -- in lower case
    name          TEXT    NOT NULL,
    password_hash TEXT    NOT NULL,        -- argon2id, PHC string
    created_at_ms INTEGER NOT NULL
) STRICT;

-- One row per signed-in device. Its refresh token changes with every use.
CREATE TABLE sessions (
    id            TEXT    PRIMARY KEY NOT NULL,
    account       TEXT    NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    refresh_hash  BLOB    NOT NULL,        -- SHA-256 of 256 random bits
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX sessions_by_account ON sessions (account, created_at_ms);
CREATE INDEX sessions_by_expiry ON sessions (expires_at_ms);

-- Whose meeting it is; NULL: nobody's but the host key's.
ALTER TABLE meetings ADD COLUMN owner TEXT;
CREATE INDEX meetings_by_owner ON meetings (owner, created_at_ms) WHERE owner IS NOT NULL;

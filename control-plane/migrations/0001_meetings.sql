-- Meetings. Times are milliseconds since 1970.
CREATE TABLE meetings (
    code             TEXT    PRIMARY KEY NOT NULL,
    title            TEXT    NOT NULL,
    passcode_hash    TEXT,              -- argon2id, PHC string
    host_key_hash    BLOB    NOT NULL,  -- SHA-256: the key itself has 256 random bits
    max_participants INTEGER NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    ended_at_ms      INTEGER
) STRICT;

CREATE INDEX meetings_by_creation ON meetings (created_at_ms);

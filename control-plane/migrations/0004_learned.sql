-- What edges measured, by prefix or autonomous system. The body is JSON: see store/learned.rs.
CREATE TABLE learned (
    key        TEXT    PRIMARY KEY NOT NULL, -- 203.0.113.0/24, 2001:db8::/48, AS64500
    body       TEXT    NOT NULL,
    changed_at INTEGER NOT NULL              -- seconds since 1970
) STRICT;

CREATE INDEX learned_by_change ON learned (changed_at);

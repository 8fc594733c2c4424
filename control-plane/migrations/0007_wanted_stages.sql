-- What operators want of edges: an edge that comes back is told again. Rows of edges that are gone for good stay few and small.
CREATE TABLE wanted_stages (
    edge       TEXT    PRIMARY KEY NOT NULL,
    stage      INTEGER NOT NULL,           -- meridian.v1.NodeState
    until_ms   INTEGER NOT NULL,           -- deadline of a drain, milliseconds since 1970; else 0
    changed_ms INTEGER NOT NULL,           -- milliseconds since 1970: the latest wins
    people     INTEGER NOT NULL            -- on the edge when its drain began
) STRICT;

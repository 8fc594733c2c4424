-- When somebody last joined: meetings that nobody uses any more are removed in the end.
ALTER TABLE meetings ADD COLUMN used_at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE meetings SET used_at_ms = created_at_ms;
CREATE INDEX meetings_by_use ON meetings (used_at_ms);

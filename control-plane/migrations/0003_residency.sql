-- Where a meeting may be held: region names and areas, separated by commas; empty: anywhere.
ALTER TABLE meetings ADD COLUMN residency TEXT NOT NULL DEFAULT '';

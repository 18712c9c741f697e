"""The DDL of both databases. Every column and every sentinel is explained here and only here.

Numbers are integers, times are nanoseconds since the epoch, sizes are bytes.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 2
"""`user_version` of both databases."""
OLDEST_READER: Final = 2
"""The lowest version that can read a store of this one, closed in order: both databases and the spool, nothing else."""

DOCUMENTS_PAGE: Final = 4096
BLOBS_PAGE: Final = 16384

DOCUMENTS: Final = """
-- The one row says up to which journal record this database is complete, and of which store it is.
CREATE TABLE applied (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL,
    store BLOB NOT NULL              -- 16 random bytes, the same in both databases; empty: being made
);
INSERT INTO applied VALUES (1, 0, x'');

-- One row a document that this device knows. Inode 1 is the root, which is never sent.
CREATE TABLE documents (
    inode INTEGER PRIMARY KEY,
    doc_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,              -- values.documents.Kind; '' is a parent whose own document has not come yet
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    rdev INTEGER NOT NULL,
    size INTEGER NOT NULL,
    stored INTEGER NOT NULL,         -- bytes of it in blobs.db
    nlink INTEGER NOT NULL,          -- names of a file; 2 + subdirectories of a directory
    atime_ns INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    birth_ns INTEGER NOT NULL,
    target BLOB NOT NULL,            -- of a symlink, else empty
    content INTEGER,                 -- of blobs.db; NULL: nothing attached, or its bytes are gone already
    deleted INTEGER NOT NULL,        -- 1: no name left; the row waits for its last handle or for its tombstone
    json TEXT NOT NULL,              -- what programs keep in the document
    edit INTEGER NOT NULL,           -- counts local edits
    synced INTEGER NOT NULL,         -- the edit that the server has; smaller than edit: something to send
    changed_ns INTEGER NOT NULL,     -- when the first edit that was not sent happened
    touched_ns INTEGER NOT NULL      -- when the last edit happened
);
CREATE INDEX documents_by_content ON documents (content) WHERE content IS NOT NULL;
CREATE INDEX documents_unsent ON documents (changed_ns) WHERE edit > synced;

-- The id is the cookie of readdir: the index on parent holds it, so a directory is read by the age of its names.
CREATE TABLE names (
    id INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    UNIQUE (parent, name)
);
CREATE INDEX names_by_parent ON names (parent);
CREATE INDEX names_by_inode ON names (inode);

CREATE TABLE xattrs (
    inode INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (inode, name)
) WITHOUT ROWID;

-- What both sides last agreed on. Outlives its document, so that a deleted one cannot be replayed.
CREATE TABLE bases (
    doc_id TEXT PRIMARY KEY,
    revision TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    body BLOB NOT NULL               -- values.documents.encode
) WITHOUT ROWID;

-- Documents whose bytes stay on this device: files, and directories with all that is ever in them. Never sent.
CREATE TABLE pins (doc_id TEXT PRIMARY KEY) WITHOUT ROWID;

-- How many edits of each device all bases together contain: it only grows, for as long as nobody forgets a revision.
CREATE TABLE heads (device TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_ROWS: Final = """
CREATE TABLE applied (id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL, store BLOB NOT NULL);
INSERT INTO applied VALUES (1, 0, x'');

-- Plaintext in rows of at most 128 KiB; what a row's payload lacks at its end is zeros. A row that was appended to can
-- have zeros behind the end of the file, for what comes next.
CREATE TABLE rows (
    position INTEGER PRIMARY KEY,    -- content << 27 | index of the row
    payload BLOB NOT NULL
);

-- An extent without a row here is a hole: zeros, and nothing on the server.
CREATE TABLE extents (
    content INTEGER NOT NULL,
    extent INTEGER NOT NULL,
    blob_id BLOB,                    -- 32 bytes; NULL: never sealed
    length INTEGER NOT NULL,         -- bytes sealed in that blob, padding included
    present INTEGER NOT NULL,        -- bitmap of its 32 rows: 1 is here (a row that is here and not in `rows` is zeros)
    dirty INTEGER NOT NULL,          -- 1: differs from the blob, or there is none
    used INTEGER NOT NULL,           -- the greater, the later it was used (`uses.py`); 0: never since it was written
    PRIMARY KEY (content, extent)
) WITHOUT ROWID;
CREATE INDEX extents_evictable ON extents (used) WHERE dirty = 0 AND present != 0;

-- Versions whose ids are in index blobs that have not been fetched: values.extents.Attachment as JSON.
CREATE TABLE unresolved (content INTEGER PRIMARY KEY, attachment TEXT NOT NULL);

-- Contents that nothing refers to; their rows are deleted a slice at a time.
CREATE TABLE discarded (content INTEGER PRIMARY KEY);
"""

STAGED: Final = """
-- Pieces of rows that are in the spool; each lies over what `rows` has there, a later one over an earlier one.
CREATE TABLE staged (
    position INTEGER NOT NULL,       -- as in `rows`
    segment INTEGER NOT NULL,        -- number of the file
    at INTEGER NOT NULL,             -- where the sealed piece begins in it
    start INTEGER NOT NULL,          -- where its bytes begin within the row
    length INTEGER NOT NULL,         -- how many they are
    nonce BLOB NOT NULL,             -- 11 bytes; `spool.py` says of what
    PRIMARY KEY (position, segment, at)
) WITHOUT ROWID;
"""
BLOBS: Final = _ROWS + STAGED

ROW_BITS: Final = 27
"""Of a position: 2**27 rows of 128 KiB are 16 TiB, the largest file."""

_MARK: Final = 0x6266 << 16


def stamp() -> str:
    """SQL that marks a database as one of this version, which whoever is not below `OLDEST_READER` can read.

    In no table, so that versions which know none of the tables can tell: docs/FORMAT.md, "Databases".
    """
    return f"PRAGMA user_version = {VERSION}; PRAGMA application_id = {_MARK | OLDEST_READER};"


def oldest_reader(application_id: int) -> int | None:
    """The lowest version that can read a database with this mark; None: it has none, so only its own and later ones."""
    return application_id & 0xFFFF if application_id >> 16 << 16 == _MARK and application_id & 0xFFFF else None

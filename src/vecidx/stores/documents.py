"""Documents in SQLite: which label an id has now, its text, its metadata.

A transaction here is the moment at which a change of a store happens.  Reads never
wait for it: each has a connection of its own, and sees the last whole state.  (A
store in memory has one connection, and a lock.)
"""

import json
import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

from vecidx.errors import IndexFormatError, VecidxError
from vecidx.stores.conditions import install, sql_of, value_at

FORMAT = 1
_APPLICATION = 0x76646f63                  # "vdoc", in the file's head

_SCHEMA = f"""
CREATE TABLE documents (
    label INTEGER PRIMARY KEY,             -- the id in the index; a new one for each version
    key TEXT NOT NULL UNIQUE,
    parent TEXT,
    has_vector INTEGER NOT NULL,
    content TEXT,
    metadata TEXT NOT NULL,                -- JSON object
    extra TEXT                             -- JSON, for the adapter
);
CREATE INDEX documents_parent ON documents (parent) WHERE parent IS NOT NULL;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {FORMAT};
"""
_FIELDS = "label, key, parent, has_vector, content, metadata, extra"


@dataclass
class Document:
    """What a store keeps beside a vector.

    Parameters
    ----------
    key : str
        The id that its user gave it.
    content : str, optional
    metadata : dict
        What can be written as JSON; filters look here.
    extra : object, optional
        JSON as well; no filter looks here.
    parent : str, optional
        Id of what it is a part of.
    """

    key: str
    content: str | None = None
    metadata: dict = field(default_factory=dict)
    extra: object = None
    parent: str | None = None


def encode(document):
    """The columns that hold a document: key, parent, content, metadata, extra.

    Raises
    ------
    TypeError, ValueError
        Naming the document, where something cannot be stored.
    """
    for name in ("key", "parent", "content"):
        value = getattr(document, name)
        if value is None and name != "key":
            continue
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, got {value!r}")
    if not document.key or "\0" in document.key:
        raise ValueError(f"key: expected a text of one character at least and no NUL, "
                         f"got {document.key!r}")
    if not isinstance(document.metadata, dict):
        raise TypeError(f"metadata of {document.key!r}: expected a dict, "
                        f"got {type(document.metadata).__name__}")
    columns = (document.key, document.parent, document.content,
               _to_json(document, "metadata"),
               None if document.extra is None else _to_json(document, "extra"))
    for text in columns:
        if text is not None:
            _check_text(document.key, text)
    return columns


def _to_json(document, name):
    try:
        return json.dumps(getattr(document, name), ensure_ascii=False, allow_nan=False,
                          separators=(",", ":"))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{name} of {document.key!r}: expected what JSON can hold (None, bools, "
                         f"finite numbers, texts, lists, dicts): {exc}") from exc


def _check_text(key, text):
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"document {key!r}: a text that is no valid Unicode: {exc}") from exc


def _decode(row):
    _, key, parent, _, content, metadata, extra = row
    return Document(key, content, json.loads(metadata),
                    None if extra is None else json.loads(extra), parent)


class Documents:
    """The table of documents in a file, or in memory where `path` is None."""

    def __init__(self, path):
        self._path = path
        self._lock = threading.RLock()         # of the connection that writes
        self._idle = []                        # connections that read
        self._pid = os.getpid()
        self._is_closed = False
        self._writer = self._connect()
        try:
            self._begin()
        except BaseException as exc:
            self._writer.close()
            if isinstance(exc, sqlite3.DatabaseError):
                raise IndexFormatError(f"{path!r}: no documents of vecidx, or damaged: {exc}"
                                       ) from exc
            raise

    def _connect(self):
        # Longer than any transaction of ours; a file that is copied meanwhile holds it too.
        connection = sqlite3.connect(self._path or ":memory:", timeout=60, isolation_level=None,
                                     check_same_thread=False)
        install(connection)
        return connection

    def _begin(self):
        connection = self._writer
        connection.execute("PRAGMA synchronous = FULL")
        version, = connection.execute("PRAGMA user_version").fetchone()
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            if self._path is not None:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            raise IndexFormatError(f"{self._path!r}: an SQLite file, but not of vecidx documents")
        elif version != FORMAT:
            raise IndexFormatError(f"{self._path!r}: documents of format {version}; this vecidx "
                                   f"reads {FORMAT}")

    def close(self):
        with self._lock:
            self._is_closed = True
            if self._pid != os.getpid():       # the parent's files: SQLite must not touch them
                return
            while self._idle:
                self._idle.pop().close()
            self._writer.close()

    def _check(self):
        if self._is_closed:
            raise VecidxError("the store is closed; open it again")
        if self._pid != os.getpid():
            raise VecidxError(f"this process was forked from the one that opened the store "
                              f"({self._pid}); open it after forking")

    @contextmanager
    def _reading(self):
        self._check()
        if self._path is None:
            with self._lock:
                yield self._writer
            return
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.append(connection)
            if self._is_closed and self._idle:
                self._idle.pop().close()

    @contextmanager
    def _writing(self):
        with self._lock:
            self._check()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    # ---- reading ----------------------------------------------------------------

    def by_label(self, labels):
        """{label: Document} of those that are there."""
        text = f"SELECT {_FIELDS} FROM documents WHERE label IN (SELECT value FROM json_each(?))"
        with self._reading() as connection:
            rows = connection.execute(text, [json.dumps([int(label) for label in labels])])
            return {row[0]: _decode(row) for row in rows}

    def by_key(self, keys):
        """{key: Document} of those that are there."""
        text = f"SELECT {_FIELDS} FROM documents WHERE key IN (SELECT value FROM json_each(?))"
        with self._reading() as connection:
            return {row[1]: _decode(row)
                    for row in connection.execute(text, [json.dumps(list(keys))])}

    def labels_of(self, keys):
        """{key: (label, whether it has a vector)} of those that are there."""
        text = ("SELECT key, label, has_vector FROM documents "
                "WHERE key IN (SELECT value FROM json_each(?))")
        with self._reading() as connection:
            return {key: (label, bool(has)) for key, label, has
                    in connection.execute(text, [json.dumps(list(keys))])}

    def find(self, where=None):
        """Documents that meet a condition, in the order they were written."""
        condition, values = _where(where)
        with self._reading() as connection:
            return [_decode(row) for row in connection.execute(
                f"SELECT {_FIELDS} FROM documents WHERE {condition} ORDER BY label", values)]

    def count(self, where=None):
        condition, values = _where(where)
        with self._reading() as connection:
            return connection.execute(f"SELECT count(*) FROM documents WHERE {condition}",
                                      values).fetchone()[0]

    def labels(self, where=None, with_vector=True):
        """Labels of documents that meet a condition, as a list."""
        condition, values = _where(where)
        with self._reading() as connection:
            return [label for label, in connection.execute(
                f"SELECT label FROM documents WHERE {condition} AND (has_vector OR ?)",
                [*values, not with_vector])]

    def counts(self):
        """(documents that have a vector, the highest label or -1)."""
        with self._reading() as connection:
            return connection.execute("SELECT count(*) FILTER (WHERE has_vector), "
                                      "COALESCE(max(label), -1) FROM documents").fetchone()

    # ---- writing: each one transaction -----------------------------------------------

    def replace(self, rows):
        """Put rows (label, has_vector, *encode(document)) in, in place of those of their keys."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM documents WHERE key = ?",
                                   [(row[2],) for row in rows])
            connection.executemany(
                "INSERT INTO documents (label, has_vector, key, parent, content, metadata, extra) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def remove(self, labels):
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM documents WHERE label IN (SELECT value FROM json_each(?))",
                [json.dumps(labels)])

    def change_metadata(self, where, change):
        """Write ``change(metadata)`` for each document that meets a condition; how many."""
        condition, values = _where(where)
        with self._writing() as connection:
            rows = connection.execute(f"SELECT {_FIELDS} FROM documents WHERE {condition}",
                                      values).fetchall()
            changed = []
            for row in rows:
                document = _decode(row)
                document.metadata = change(document.metadata)
                changed.append((encode(document)[3], row[0]))
            connection.executemany("UPDATE documents SET metadata = ? WHERE label = ?", changed)
        return len(changed)

    def index_field(self, path):
        """Make conditions on a value of the metadata quick."""
        name = '"field ' + ".".join(path).replace('"', '""') + '"'
        with self._writing() as connection:
            connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON documents "
                               f"({value_at(path)})")

    # ---- files -------------------------------------------------------------------------

    def copy_to(self, path):
        """A copy of the last whole state in a file of its own."""
        target = sqlite3.connect(path)
        try:
            with self._reading() as connection:
                connection.backup(target)
            target.execute("PRAGMA journal_mode = WAL")
        finally:
            target.close()

    def checkpoint(self):
        """Fold SQLite's log into the file."""
        if self._path is not None:
            with self._lock:
                self._check()
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _where(condition):
    return ("1", []) if condition is None else sql_of(condition)

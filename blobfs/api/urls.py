"""`blobfs://PATH` for fsspec, so that whatever opens files by URL (pandas, zarr, dask ...) opens those of a folder.

    pandas.read_csv("blobfs://Tables/2024.csv", storage_options={"store": STORE, "passphrase": PASSPHRASE})

The only importer of fsspec, which is an extra. Knows the account and nothing below it. Invariant: a file is what it was
until its writer is closed, and then all of the new bytes, in one transaction.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import posixpath
import weakref
from collections.abc import Iterator
from typing import Any, Final

from fsspec.spec import AbstractFileSystem

from blobfs.api.account import Account
from blobfs.api.desk import Listed
from blobfs.api.document import MAIN, Document
from blobfs.api.opening import open_account
from blobfs.api.staging import Filler, Source, Staged
from blobfs.errors import (
    BlobfsError,
    DocumentExists,
    DocumentNotFound,
    Exists,
    InvalidDocument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    UsageError,
)
from blobfs.store.tree import new_doc_id

_OS_ERRORS: Final[tuple[tuple[type[BlobfsError], type[OSError]], ...]] = (
    (NotFound, FileNotFoundError),
    (DocumentNotFound, FileNotFoundError),
    (InvalidDocument, FileNotFoundError),
    (Exists, FileExistsError),
    (DocumentExists, FileExistsError),
    (NotADirectory, NotADirectoryError),
    (IsADirectory, IsADirectoryError),
    (NotEmpty, OSError),
)
"""What programs that know only files expect to catch. Everything else, such as the server's errors, comes as it is."""


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except BlobfsError as error:
        for ours, theirs in _OS_ERRORS:
            if isinstance(error, ours):
                raise theirs(str(error)) from error
        raise


class BlobfsFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files of one account, by path. Instances with equal arguments are one, as fsspec has it."""

    protocol = "blobfs"
    root_marker = ""

    def __init__(self, store: str = "", passphrase: str | None = None, account: Account | None = None, **options: Any):
        """
        Args:
            store: the directory of a store, which may be mounted at the same time.
            passphrase: of the store; without one, the kept passphrase beside it is used.
            account: one that is open already, in place of both; whoever opened it closes it.
        Raises:
            StoreMissing, StoreInUse, WrongPassphrase, UsageError: as `open_account`.
        """
        super().__init__(**options)
        if account is None:
            if not store:
                raise UsageError("name the store of blobfs:// URLs, as in storage_options={'store': DIRECTORY}")
            account = open_account(store, passphrase=passphrase).open()
            weakref.finalize(self, account.close)
        self.account = account

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.strip("/")

    # --- looking --------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a folder, or the one file of this path."""
        path = self._strip_protocol(path)
        with _as_os_errors():
            try:
                found = [_info(path, entry) for entry in self.account.list_folder(path)]
            except NotADirectory:
                found = [self.info(path)]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size in bytes, type (`file`, `directory` or `other`), time of the last change, document id."""
        path = self._strip_protocol(path)
        if not path:
            return {"name": "", "size": 0, "type": "directory"}
        parent, name = posixpath.split(path)
        with _as_os_errors():
            for entry in self.account.list_folder(parent):
                if entry.name == name:
                    return _info(parent, entry)
        raise FileNotFoundError(f"there is no {path} in the folder")

    def modified(self, path: str) -> datetime.datetime:
        """When a file last changed, in UTC."""
        return datetime.datetime.fromtimestamp(self.info(path)["mtime_ns"] / 1e9, datetime.UTC)

    # --- folders --------------------------------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder. Raises FileExistsError, FileNotFoundError."""
        path = self._strip_protocol(path)
        if self.exists(path):
            raise FileExistsError(f"there is a {path} already")
        if not create_parents and not self.isdir(self._parent(path)):
            raise FileNotFoundError(f"there is no folder for {path}")
        self.makedirs(path)

    def makedirs(self, path: str, exist_ok: bool = True) -> None:
        """Make a folder and all that lead to it. Raises FileExistsError: unless `exist_ok`."""
        path = self._strip_protocol(path)
        if not exist_ok and self.exists(path):
            raise FileExistsError(f"there is a {path} already")
        if path:
            with _as_os_errors():
                self.account.make_folder(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder. Raises NotADirectoryError; OSError: something is in it."""
        if not self.isdir(path):
            raise NotADirectoryError(f"{path} is no folder")
        self.rm_file(path)

    def rm_file(self, path: str) -> None:
        """Delete a file or an empty folder."""
        with _as_os_errors():
            self.account.delete_doc(self._document(path))

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Move a file or a folder with all in it; nothing is copied. A file that is there is replaced."""
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        if old == new:
            return
        with _as_os_errors():
            if self.isfile(old) and self.isfile(new):
                self.rm_file(new)
            self.makedirs(self._parent(new))
            self.account.move(old, new)

    # --- bytes ----------------------------------------------------------------------------------------------------

    def _document(self, path: str) -> Document:
        path = self._strip_protocol(path)
        found = self.account.get_doc_at(path) if path else None
        if found is None:
            raise FileNotFoundError(f"there is no {path} in the folder")
        return found

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **_: Any) -> Any:
        with _as_os_errors():
            if mode == "rb":
                return self._reader(path)
            if mode not in ("wb", "xb", "ab"):
                raise ValueError(f"a file opens as rb, wb, xb or ab, not as {mode}")
            if mode == "xb" and self.exists(path):
                raise FileExistsError(f"there is a {path} already")
            if self.isdir(path):
                raise IsADirectoryError(f"{path} is a folder")
            writer = Writer(self.account, self._strip_protocol(path), autocommit=autocommit)
            if mode == "ab" and self.exists(path):
                with self._reader(path) as before:
                    while piece := before.read(io.DEFAULT_BUFFER_SIZE):
                        writer.write(piece)
            return writer

    def _reader(self, path: str) -> Reader:
        if self.isdir(path):
            raise IsADirectoryError(f"{path} is a folder")
        file = self._document(path).get_attachment()
        return Reader(io.BytesIO()) if file is None else Reader(file.detach())

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file; equal bytes are sent to the server once."""
        if self.isdir(path1):
            self.makedirs(path2)
            return
        with self._open(path1) as source:
            self._write(self._strip_protocol(path2), source)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Make `value` the bytes of a file. Raises FileExistsError: it is there and `mode` is `create`."""
        with self._open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def _write(self, path: str, source: Source) -> None:
        with _as_os_errors():
            found = self.account.get_doc_at(path)
            if found is None:
                self.account.create_doc({}, path=path, attachment=source)
            else:
                found.put_attachment(source)
                self.account.put_doc(found)


def _info(folder: str, entry: Listed) -> dict[str, Any]:
    return {
        "name": f"{folder}/{entry.name}".lstrip("/"),
        "size": entry.size,
        "type": entry.kind if entry.kind in ("file", "directory") else "other",
        "mtime_ns": entry.mtime_ns,
        "doc_id": entry.doc_id,
    }


class Reader(io.BufferedReader):
    """A file being read; what is not on this device is fetched as it is asked for."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        found = getattr(self.raw, "size", 0)
        return int(found)


class Writer(io.RawIOBase):
    """A file being written: its bytes go into the store as they come, and become the file's by `close`."""

    def __init__(self, account: Account, path: str, *, autocommit: bool) -> None:
        """
        Args:
            autocommit: False: `close` only ends the bytes, and `commit` makes them the file's.
        """
        self.path = path
        self._account, self._autocommit = account, autocommit
        self._staging = account.attaching.staging
        self._filler: Filler | None = self._staging.begin()
        self._at = 0

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self._at

    def write(self, data: Any, /) -> int:
        """Add bytes at the end. Raises NoSpace."""
        if self._filler is None:
            raise ValueError("the file was closed")
        view = memoryview(data).cast("B")
        self._filler.add(view)
        self._at += len(view)
        return len(view)

    def close(self) -> None:
        """Make what was written the file; on return it survives the end of the process."""
        if self.closed:
            return
        super().close()
        if self._autocommit:
            self.commit()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            self.discard()
        super().__exit__(kind, error, trace)

    def commit(self) -> None:
        """See `close`; does nothing after `discard`."""
        filler, self._filler = self._filler, None
        if filler is None:
            return
        with _as_os_errors():
            staged = filler.end()
            try:
                self._put(staged)
            except BaseException:
                self._staging.drop(staged)
                raise

    def _put(self, staged: Staged) -> None:
        found = self._account.get_doc_at(self.path)
        if found is None:
            self._account.create_staged(new_doc_id(), "{}", self.path, staged)
        else:
            self._account.attaching.change(found, MAIN, staged)
            self._account.put_doc(found)

    def discard(self) -> None:
        """Leave the file as it was."""
        filler, self._filler = self._filler, None
        if filler is not None:
            self._staging.drop(filler.staged)

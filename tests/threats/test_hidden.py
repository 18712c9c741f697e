"""A device of the account that puts what no device would where blobfs keeps cards, blobs, notes and attachments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from blobfs.api import named
from blobfs.devices import Register
from blobfs.store.cards import Cards
from blobfs.store.store import Store
from blobfs.sync.merge import State
from blobfs.sync.plan import Remote, plan
from blobfs.sync.view import Executor, News, StoreView
from blobfs.values.cards import Card
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import Attachment
from blobfs.values.revisions import DeviceId, Revision
from tests.sync.kit import KEYS

NAMES = (b"\xff\xfe", b"a(b", "\u202e".encode(), b"\n", b"\x1b[2J", b"x" * 255, b"c" * 16, b"-")
PLACES = (
    (b"devices",),
    (b"blobs",),
    (b"blobs", b"ns"),
    (b"incoming",),
    (b"attachments",),
    (b"local",),
    (b"local", b"ns"),
)
REVISION = Revision.of({DeviceId("a" * 16): 1})
HOSTILE: dict[str, Any] = {"failure": {"count": "x"}, "PENDING": [], "name": 5, "seen_ns": -1, "token": 2**64 - 1}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in which each place has something of its own."""
    with closing(Store.create(tmp_path / "store", KEYS, device_name="one")) as store:
        for place in PLACES:
            store.hidden.directory(*place)
        Cards(store).write(Card(store.device, "one"))
        assert store.arrivals.fail("item", "broken", 1)
        yield store


def put_everywhere(store: Store) -> list[DocId]:
    """In each place, under each name: a file, a link and a folder with a file in it."""
    arrivals: list[Remote] = []

    def put(parent: DocId, name: bytes, kind: Kind, **more: Any) -> DocId:
        doc_id = DocId(f"{len(arrivals) + 1:032x}")
        document = Document(doc_id, kind, (Name(parent, name[:255]),), **more)
        arrivals.append(Remote(doc_id, REVISION, State(document)))
        return doc_id

    for place in PLACES:
        directory = store.hidden.find(*place)
        assert directory is not None
        for name in NAMES:
            put(directory.doc_id, name, Kind.FILE, attachment=Attachment(0), content=HOSTILE)
            put(directory.doc_id, b"1" + name, Kind.SYMLINK, target=b"/etc/passwd")
            folder = put(directory.doc_id, b"2" + name, Kind.DIRECTORY)
            put(folder, name, Kind.FILE, attachment=Attachment(0), content=HOSTILE)
    with store.transaction():
        news = News.among(store, arrivals)
        view = StoreView(store, news)
        Executor(store, news).run(
            plan(view, arrivals, device=store.device, label="one", new_id=lambda: DocId("f" * 32))
        )
    return [arrival.doc_id for arrival in arrivals]


def look_everywhere(store: Store) -> None:
    """All that asks for what is kept there."""
    assert "ns" in store.blobs.namespaces()
    assert all(name.isascii() and name.isprintable() for name in store.blobs.namespaces())
    for flag in (None, "PENDING"):
        for order in (None, "date", "-date"):
            page = store.blobs.page("ns", flag=flag, order=order, after=None, limit=1000)
            assert len(page) == store.blobs.count("ns", flag)
    assert all(name.isascii() for name in store.blobs.deleted("ns"))
    assert "item" in store.arrivals.failures()
    assert store.arrivals.fail("item", "broken again", 2)
    assert store.arrivals.failures()["item"]["version"] == 2
    register = Register(store)
    register.learn()
    assert all(notice.isprintable() for notice in register.notices())
    assert Cards(store).find(store.device) is not None
    named.tidy(store)


def test_what_no_device_puts_there_stops_nobody_who_looks(store: Store) -> None:
    put_everywhere(store)
    look_everywhere(store)
    assert store.check() == []


def test_programs_are_told_of_it_under_ids_or_not_at_all(store: Store) -> None:
    for doc_id in put_everywhere(store):
        node = store.tree.get(store.documents.inode(doc_id) or store.hidden.directory().inode)
        told = named.told_as(store, node, tuple(store.tree.names(node.inode)))
        assert told is None or told.replace("-", "").isalnum()


def test_it_can_all_be_deleted_again(store: Store) -> None:
    for doc_id in reversed(put_everywhere(store)):
        store.documents.edit(doc_id, 5, names=())
    look_everywhere(store)
    assert store.blobs.namespaces() == ["ns"]
    assert store.check() == []


def test_only_where_the_mount_shows_nothing_is_out_of_sight(store: Store) -> None:
    """The mount shows attachments, so a person can move a file there."""
    file = store.documents.create(DocId("file"), {}, 5, uid=0, gid=0)
    hidden = store.hidden

    def hides(*names: Name) -> bool:
        return hidden.is_hiding(Document(file.doc_id, names=names))

    devices, listed = hidden.directory(b"devices").doc_id, hidden.directory(b"attachments", b"other").doc_id
    shown = store.documents.create(DocId("shown"), {}, 5, uid=0, gid=0).doc_id
    assert hides(Name(devices, b"x"))
    assert hides(Name(hidden.directory().doc_id, b"x"), Name(devices, b"x"))
    assert hides(Name(ROOT, b".blobfs"))
    assert not hides(Name(listed, b"x"))
    assert not hides(Name(hidden.directory(b"attachments", b"other", b"inner").doc_id, b"x"))
    assert not hides(Name(devices, b"x"), Name(ROOT, b"x"))
    assert not hides(Name(shown, b"x"))
    assert not hides(Name(DocId("unknown"), b"x"))
    assert not hides()
    assert not hidden.is_hiding(Document(DocId("new"), names=(Name(devices, b"x"),)))
    store.documents.edit(file.doc_id, 6, names=(Name(devices, b"y"),))
    assert not hides(Name(devices, b"x"))

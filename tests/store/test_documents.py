"""Documents: remote states applied, local ones sent, and what each side keeps of the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blobfs.errors import (
    BytesAbsent,
    CorruptDocument,
    DocumentExists,
    DocumentNotFound,
    Exists,
    InvalidArgument,
    NotEmpty,
    NotFound,
)
from blobfs.store.store import Store
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import EXTENT, ROW, Attachment, BlobId, build, extent_length
from blobfs.values.nodes import ROOT_INODE, Content, Inode
from blobfs.values.revisions import DeviceId, Revision
from tests.store.conftest import Bench, content, make, write

DEVICE = DeviceId("d" * 16)


def revision(number: int) -> Revision:
    """The revision after so many edits by another device."""
    return Revision.parse(f"{DEVICE}:{number}")


def blob(number: int) -> BlobId:
    return BlobId(f"{number:064x}")


def remote(doc_id: str, name: bytes = b"r", parent: str = ROOT, **fields: object) -> Document:
    """A document as another device made it."""
    document = Document(DocId(doc_id), names=(Name(DocId(parent), name),), attachment=Attachment(0))
    return replace(document, **fields)  # type: ignore[arg-type]


def directory(doc_id: str, name: bytes, parent: str = ROOT) -> Document:
    return remote(doc_id, name, parent, kind=Kind.DIRECTORY, attachment=None, mode=0o755)


def send(store: Store, doc_id: DocId, number: int = 1, first_blob: int = 1) -> Document:
    """What sync does: extents, then the document. Returns what the server has then."""
    local = store.documents.local(doc_id)
    assert local is not None
    node = local.node
    if local.content_dirty and node.content is not None:
        extents = store.attachments.extents(node.content)
        sealed = {
            index: (blob(first_blob + index), extent_length(node.size, index))
            for index, extent in extents.items()
            if extent.dirty
        }
        assert store.attachments.settle(node.inode, local.edit, sealed)
        local = store.documents.local(doc_id)
        assert local is not None
    assert not local.content_dirty
    store.documents.record_synced(doc_id, local.edit, revision(number), local.document, local.node.deleted)
    return local.document


def fill(store: Store, inode: Inode, blobs: dict[BlobId, bytes]) -> None:
    """Fetch all that is absent."""
    number = store.tree.get(inode).content
    assert number is not None
    for index, extent in store.attachments.extents(number).items():
        if extent.blob_id is not None:
            store.attachments.keep(number, index, extent.blob_id, 0, blobs[extent.blob_id])


def changed(store: Store) -> list[DocId]:
    return [entry.doc_id for entry in store.documents.changed(100)]


def node_of(store: Store, doc_id: str) -> Inode:
    inode = store.documents.inode(DocId(doc_id))
    assert inode is not None
    return inode


def sound(bench: Bench, store: Store) -> Store:
    """Nothing is wrong with it, here and after a crash."""
    assert store.check() == []
    store = bench.crash(store)
    assert store.check() == []
    return store


def test_a_remote_file_appears_and_its_bytes_are_absent(bench: Bench, store: Store) -> None:
    document = remote("r1", attachment=Attachment(ROW + 5, (blob(1),)), mode=0o640, xattrs={b"user.a": b"1"})
    applied = store.documents.apply(document, revision(1), False, 50)
    assert applied.before is None
    assert applied.names_after == ((ROOT_INODE, b"r"),)
    assert applied.content_changed
    node = store.tree.lookup(ROOT_INODE, b"r")
    assert (node.size, node.stored, node.mode, node.nlink) == (ROW + 5, 0, 0o640, 1)
    with pytest.raises(BytesAbsent):
        content(store, node.inode)
    fill(store, node.inode, {blob(1): b"x" * (ROW + 5)})
    assert content(store, node.inode) == b"x" * (ROW + 5)
    assert changed(store) == []
    local = store.documents.local(DocId("r1"))
    assert local is not None
    assert local.document == document
    assert not local.content_changed
    store = sound(bench, store)
    assert content(store, node.inode) == b"x" * (ROW + 5)


def test_the_padding_of_a_blob_is_no_part_of_the_file(bench: Bench, store: Store) -> None:
    attachment = Attachment(ROW + 5001, (blob(1),), padded=True)
    length = attachment.blob_length(0)
    assert length > attachment.size
    inode = store.documents.apply(remote("r1", attachment=attachment), revision(1), False, 50).inode
    fill(store, inode, {blob(1): (b"x" * attachment.size).ljust(length, b"\0")})
    assert store.tree.get(inode).stored == attachment.size
    assert content(store, inode) == b"x" * attachment.size
    local = store.documents.local(DocId("r1"))
    assert local is not None
    assert not local.content_changed
    store.attachments.resize(inode, 2 * ROW, 60)
    store = sound(bench, store)
    assert content(store, inode) == (b"x" * attachment.size).ljust(2 * ROW, b"\0")


def test_a_file_whose_parent_is_not_known_shows_when_the_parent_comes(bench: Bench, store: Store) -> None:
    store.documents.apply(directory("inner", b"i", "outer"), revision(1), False, 50)
    store.documents.apply(remote("file", b"f", "inner"), revision(1), False, 50)
    assert store.tree.entries(ROOT_INODE, 0, 9) == []
    assert store.tree.count() == 2 + 1
    store = sound(bench, store)
    with pytest.raises(NotFound):
        store.tree.get(Inode(store.tree.names(node_of(store, "inner"))[0][0]))
    store.documents.apply(directory("outer", b"o"), revision(1), False, 50)
    outer = store.tree.lookup(ROOT_INODE, b"o")
    inner = store.tree.lookup(outer.inode, b"i")
    assert (store.tree.get(ROOT_INODE).nlink, outer.nlink, inner.nlink) == (3, 3, 2)
    assert store.tree.lookup(inner.inode, b"f").doc_id == "file"
    sound(bench, store)


def test_a_placeholder_can_become_a_directory_only(store: Store) -> None:
    store.documents.apply(remote("file", b"f", "parent"), revision(1), False, 50)
    with pytest.raises(CorruptDocument):
        store.documents.apply(remote("parent", b"p"), revision(1), False, 50)
    store.documents.apply(remote("plain", b"plain"), revision(1), False, 50)
    with pytest.raises(CorruptDocument):
        store.documents.apply(remote("in-plain", b"x", "plain"), revision(1), False, 50)
    with pytest.raises(CorruptDocument):
        store.documents.apply(directory("plain", b"plain"), revision(2), False, 50)
    assert store.check() == []


def test_a_name_that_is_taken_changes_nothing(bench: Bench, store: Store) -> None:
    mine = make(store, b"taken", data=b"mine")
    store.documents.apply(remote("r1", b"free"), revision(1), False, 50)
    for doc_id in ("r1", "r2"):
        with pytest.raises(Exists):
            store.documents.apply(remote(doc_id, b"taken", mode=0o777), revision(2), False, 50)
    with pytest.raises(Exists):
        store.documents.edit(DocId("r1"), 50, names=(Name(ROOT, b"taken"),))
    assert store.tree.lookup(ROOT_INODE, b"taken").inode == mine.inode
    base = store.documents.base(DocId("r1"))
    assert base is not None
    assert base.revision == revision(1)
    assert store.documents.base(DocId("r2")) is None
    assert store.documents.at(ROOT, b"free") == "r1"
    sound(bench, store)


def test_a_remote_rename_moves_between_directories_and_counts_them(bench: Bench, store: Store) -> None:
    for doc_id in ("a", "b"):
        store.documents.apply(directory(doc_id, doc_id.encode()), revision(1), False, 50)
    store.documents.apply(directory("d", b"d", "a"), revision(1), False, 50)
    applied = store.documents.apply(directory("d", b"e", "b"), revision(2), False, 60)
    assert applied.names_before == ((node_of(store, "a"), b"d"),)
    assert applied.names_after == ((node_of(store, "b"), b"e"),)
    assert store.documents.children(DocId("b")) == ["d"]
    assert not applied.content_changed
    sound(bench, store)


def test_a_remote_deletion_leaves_the_bytes_to_open_handles(bench: Bench, store: Store) -> None:
    document = remote("r1", attachment=Attachment(3, (blob(1),)))
    inode = store.documents.apply(document, revision(1), False, 50).inode
    fill(store, inode, {blob(1): b"abc"})
    store.documents.apply(replace(document, names=()), revision(2), True, 60)
    assert store.tree.get(inode).deleted
    assert content(store, inode) == b"abc"
    assert changed(store) == []
    store.tree.purge(inode)
    assert store.documents.inode(DocId("r1")) is None
    again = store.documents.apply(document, revision(3), False, 70)
    fill(store, again.inode, {blob(1): b"abc"})
    assert content(store, again.inode) == b"abc"
    sound(bench, store)


@pytest.mark.parametrize("is_told", [False, True], ids=["as it waits", "as the databases have it"])
def test_deleted_files_of_all_kinds_are_purged_at_once(bench: Bench, store: Store, is_told: bool) -> None:
    document = remote("r1", attachment=Attachment(3, (blob(1),)))
    known = store.documents.apply(document, revision(1), False, 50).inode
    fill(store, known, {blob(1): b"abc"})
    (name,) = document.names
    tagged = make(store, b"tagged", data=b"x")
    store.tree.set_xattr(tagged.inode, b"user.a", b"1", 20)
    files = {b"tagged": tagged.inode, bytes(name.name): known}
    for other, size in ((b"small", 10), (b"staged", 64 << 10), (b"large", 300 << 10), (b"empty", 0)):
        files[other] = make(store, other, data=bytes([7]) * size).inode
    kept = make(store, b"kept", data=b"kept")
    if is_told:
        store._ledger.commit()
        store._ledger.shrink()
    inodes = [store.tree.unlink(ROOT_INODE, name, 60).inode for name in files]
    assert inodes == list(files.values())
    store.tree.purge(*inodes, kept.inode)
    assert [entry.node.inode for entry in store.tree.entries(ROOT_INODE, 0, 99)] == [kept.inode]
    # The server has to be told of one; of the others nothing is left.
    assert [store.documents.inode(DocId(doc_id)) for doc_id in ("r1", tagged.doc_id)] == [known, None]
    assert set(changed(store)) == {"r1", kept.doc_id}
    assert store.tree.list_xattrs(tagged.inode) == []
    store.tick()
    assert store.attachments.stored() == 4
    assert content(store, kept.inode) == b"kept"
    sound(bench, store)


def test_a_directory_that_was_deleted_elsewhere_is_not_while_something_is_in_it(store: Store) -> None:
    store.documents.apply(directory("d", b"d"), revision(1), False, 50)
    make(store, b"new", parent=node_of(store, "d"))
    with pytest.raises(NotEmpty):
        store.documents.apply(replace(directory("d", b"d"), names=()), revision(2), True, 60)
    assert store.tree.lookup(ROOT_INODE, b"d").nlink == 2
    store.tree.purge(store.tree.unlink(node_of(store, "d"), b"new", 60).inode)
    store.documents.apply(replace(directory("d", b"d"), names=()), revision(2), True, 60)
    assert store.tree.get(ROOT_INODE).nlink == 2
    assert store.check() == []


def test_a_file_in_a_directory_that_was_deleted_here_waits_for_a_decision(store: Store) -> None:
    store.documents.apply(directory("d", b"d"), revision(1), False, 50)
    store.tree.purge(store.tree.rmdir(ROOT_INODE, b"d", 60).inode)
    assert changed(store) == ["d"]
    with pytest.raises(NotFound):
        store.documents.apply(remote("f", b"f", "d"), revision(1), False, 60)
    store.documents.apply(directory("d", b"d"), revision(2), False, 70)
    assert store.tree.lookup(ROOT_INODE, b"d").nlink == 2
    store.documents.apply(remote("f", b"f", "d"), revision(1), False, 80)
    assert store.check() == []


def test_a_deletion_here_is_undone_by_an_edit_elsewhere(bench: Bench, store: Store) -> None:
    document = remote("r1", attachment=Attachment(3, (blob(1),)))
    inode = store.documents.apply(document, revision(1), False, 50).inode
    fill(store, inode, {blob(1): b"abc"})
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"r", 60).inode)
    applied = store.documents.apply(replace(document, mode=0o644), revision(2), False, 70)
    assert applied.inode == inode
    assert store.tree.lookup(ROOT_INODE, b"r").nlink == 1
    fill(store, inode, {blob(1): b"abc"})
    assert content(store, inode) == b"abc"
    assert changed(store) == []
    sound(bench, store)


def test_bytes_written_here_survive_a_merge_and_are_sent(bench: Bench, store: Store) -> None:
    document = remote("r1", attachment=Attachment(3, (blob(1),)))
    inode = store.documents.apply(document, revision(1), False, 50).inode
    fill(store, inode, {blob(1): b"abc"})
    write(store, inode, 1, b"X")
    theirs = replace(document, names=(Name(ROOT, b"moved"),))
    store.documents.apply(theirs, revision(2), False, 60, local=replace(theirs, mode=0o700))
    assert content(store, inode) == b"aXc"
    assert changed(store) == ["r1"]
    other = replace(theirs, attachment=Attachment(4, (blob(2),)))
    store.documents.apply(other, revision(3), False, 70, keep_content=True)
    assert content(store, inode) == b"aXc"
    store = sound(bench, store)
    assert changed(store) == ["r1"]
    local = store.documents.local(DocId("r1"))
    assert local is not None
    assert local.content_dirty
    assert local.content_changed


def test_a_remote_state_taken_as_it_is_replaces_bytes_written_here(store: Store) -> None:
    """The row was taken for sent, with bytes that nobody else ever saw."""
    document = remote("r1", attachment=Attachment(3, (blob(1),)))
    inode = store.documents.apply(document, revision(1), False, 50).inode
    fill(store, inode, {blob(1): b"abc"})
    write(store, inode, 1, b"X")
    applied = store.documents.apply(replace(document, mode=0o644), revision(2), False, 60)
    assert applied.content_changed
    assert changed(store) == []
    fill(store, inode, {blob(1): b"abc"})
    assert content(store, inode) == b"abc"
    assert store.check() == []


def test_a_new_version_keeps_the_rows_of_equal_extents(bench: Bench, store: Store) -> None:
    first = remote("r1", attachment=Attachment(2 * EXTENT + 9, (blob(1), blob(2), blob(3))))
    inode = store.documents.apply(first, revision(1), False, 50).inode
    pieces = {blob(1): b"1" * EXTENT, blob(2): b"2" * EXTENT, blob(3): b"3" * 9, blob(4): b"4" * 99}
    fill(store, inode, pieces)
    second = replace(first, attachment=Attachment(2 * EXTENT + 99, (blob(1), None, blob(4))))
    store.documents.apply(second, revision(2), False, 60)
    node = store.tree.get(inode)
    assert node.content is not None
    assert node.stored == EXTENT
    assert store.attachments.read(node.content, EXTENT - 5, 10) == b"1" * 5 + bytes(5)
    with pytest.raises(BytesAbsent):
        store.attachments.read(node.content, 2 * EXTENT, 99)
    fill(store, inode, pieces)
    store.tick()
    store = sound(bench, store)
    assert content(store, inode) == b"1" * EXTENT + bytes(EXTENT) + b"4" * 99
    local = store.documents.local(DocId("r1"))
    assert local is not None
    assert local.document == second


def test_sending_settles_what_was_sent_and_no_later_edit(bench: Bench, store: Store) -> None:
    node = make(store, b"f", data=b"a" * (EXTENT + 1))
    local = store.documents.local(node.doc_id)
    assert local is not None
    assert store.documents.pending() == (1, EXTENT + 1)
    write(store, node.inode, 0, b"b")
    sealed = {0: (blob(1), EXTENT), 1: (blob(2), 1)}
    assert not store.attachments.settle(node.inode, local.edit, sealed)
    sent = send(store, node.doc_id)
    assert sent.attachment == Attachment(EXTENT + 1, (blob(1), blob(2)))
    assert changed(store) == []
    assert store.documents.pending() == (0, 0)
    local = store.documents.local(node.doc_id)
    assert local is not None
    store.tree.update(node.inode, 60, mode=0o700)
    store.documents.record_synced(node.doc_id, local.edit, revision(2), local.document, False)
    assert changed(store) == [node.doc_id]
    sound(bench, store)


def test_a_file_deleted_while_it_was_sent_is_deleted_there_too(bench: Bench, store: Store) -> None:
    node = make(store, b"f", data=b"abc")
    local = store.documents.local(node.doc_id)
    assert local is not None
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"f", 60).inode)
    assert changed(store) == []
    store.documents.record_synced(node.doc_id, local.edit, revision(1), local.document, False)
    assert changed(store) == [node.doc_id]
    store = sound(bench, store)
    assert changed(store) == [node.doc_id]
    send(store, node.doc_id, 2)
    assert changed(store) == []
    assert store.documents.local(node.doc_id) is None
    base = store.documents.base(node.doc_id)
    assert base is not None
    assert base.deleted


def test_a_file_never_sent_vanishes_without_a_trace(store: Store) -> None:
    node = make(store, b"f", data=b"abc")
    assert changed(store) == [node.doc_id]
    store.tree.unlink(ROOT_INODE, b"f", 60)
    assert changed(store) == []
    assert content(store, node.inode) == b"abc"
    store.tree.purge(node.inode)
    assert store.documents.local(node.doc_id) is None
    with pytest.raises(NotFound):
        store.tree.get(node.inode)


# --- large attachments ----------------------------------------------------------------------------------


def test_an_attachment_with_an_index_is_read_after_it_was_resolved(bench: Bench, store: Store) -> None:
    size = 2000 * EXTENT
    ids = {0: blob(1), 1999: blob(2)}
    attachment = build(size, ids, lambda plaintext: blob(1000 + plaintext[-1]))
    assert attachment.depth == 1
    inode = store.documents.apply(remote("r1", attachment=attachment), revision(1), False, 50).inode
    node = store.tree.get(inode)
    assert node.content is not None
    store = sound(bench, store)
    assert store.attachments.unresolved(node.content) == attachment
    with pytest.raises(BytesAbsent):
        store.attachments.read(node.content, EXTENT * 5, 10)
    store.attachments.resolve(node.content, ids)
    assert store.attachments.unresolved(node.content) is None
    assert store.attachments.read(node.content, EXTENT * 5, 10) == bytes(10)
    with pytest.raises(BytesAbsent):
        store.attachments.read(node.content, EXTENT * 1999, 10)
    sound(bench, store)


@pytest.mark.parametrize("size", [0, EXTENT, EXTENT + 5, 3000 * EXTENT])
def test_an_attachment_that_is_not_resolved_is_not_written(store: Store, size: int) -> None:
    """Whole rows went in, and the index then replaced them; a new length was forgotten."""
    attachment = build(2000 * EXTENT, {0: blob(1)}, lambda _: blob(9))
    inode = store.documents.apply(remote("r1", attachment=attachment), revision(1), False, 50).inode
    before = store.tree.get(inode)
    with pytest.raises(BytesAbsent):
        store.attachments.write(inode, [(0, bytes(ROW))], before.size, 60, 60)
    if size:
        with pytest.raises(BytesAbsent):
            store.attachments.resize(inode, size, 60)
        assert store.tree.get(inode) == before
    else:
        assert store.attachments.resize(inode, 0, 60).size == 0
        assert changed(store) == ["r1"]
    store.tick()
    assert store.check() == []


def test_a_sparse_file_of_many_extents_costs_what_it_holds(bench: Bench, store: Store) -> None:
    node = make(store, b"f")
    write(store, node.inode, 1500 * EXTENT + 7, b"end")
    assert store.tree.get(node.inode).stored == 10
    sent = send(store, node.doc_id, first_blob=0)
    assert sent.attachment is not None
    assert sent.attachment.depth == 1
    assert store.documents.pending() == (0, 0)
    store = sound(bench, store)
    local = store.documents.local(node.doc_id)
    assert local is not None
    assert not local.content_changed


def test_bytes_beyond_the_size_are_refused(store: Store) -> None:
    node = make(store, b"f", data=b"abc")
    with pytest.raises(InvalidArgument):
        store.attachments.write(node.inode, [(2, b"xyz")], 4, 30, 30)
    assert content(store, node.inode) == b"abc"


# --- the API's documents -----------------------------------------------------------------------------------


def test_a_document_of_the_api_is_a_file_without_bytes(bench: Bench, store: Store) -> None:
    node = store.documents.create(DocId("note-1"), {"a": [1]}, 30, uid=0, gid=0)
    assert node.content is None
    make(store, b"taken")
    for taken in ("note-1", "taken"):
        with pytest.raises(DocumentExists):
            store.documents.create(DocId(taken), {}, 30, uid=0, gid=0)
    store.documents.edit(DocId("note-1"), 40, content={"a": [2]})
    with pytest.raises(DocumentNotFound):
        store.documents.edit(DocId("nobody"), 40, content={})
    store = sound(bench, store)
    local = store.documents.local(DocId("note-1"))
    assert local is not None
    assert local.document.content == {"a": [2]}
    assert local.document.attachment is None
    assert write(store, node.inode, 0, b"x").size == 1
    assert store.check() == []


def test_listeners_hear_of_edits_only(store: Store) -> None:
    heard: list[int] = []
    store.on_change.append(lambda: heard.append(1))
    with store.transaction():
        make(store, b"f")
        make(store, b"g")
    assert heard == [1]
    store.settings.set("a", 1)
    store.documents.apply(remote("r1"), revision(1), False, 50)
    assert heard == [1]


def test_contents_are_not_used_twice(bench: Bench, store: Store) -> None:
    node = make(store, b"f", data=b"abc" * ROW)  # large enough to be freed later
    store.tree.purge(store.tree.unlink(ROOT_INODE, b"f", 60).inode)
    store = bench.crash(store)
    other = make(store, b"g")
    assert other.content != node.content
    assert write(store, other.inode, 10, b"x").content == other.content
    assert content(store, other.inode) == bytes(10) + b"x"
    assert isinstance(other.content, int)
    assert store.attachments.extents(Content(other.content))


def test_what_waits_is_counted_alike_whether_it_is_much_or_little(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [make(store, b"%d" % number, data=b"x" * 100) for number in range(6)]
    make(store, b"directory", Kind.DIRECTORY)
    store.tree.unlink(ROOT_INODE, b"5", 30)
    doc_id = store.tree.get(nodes[0].inode).doc_id
    for counted in (2000, 3, 0):
        monkeypatch.setattr("blobfs.store.documents._COUNTED", counted)
        assert store.documents.pending([doc_id]) == (5, 400)
        assert store.documents.pending()[1] == 500

"""plan() and merge(): from any interleaving all devices end with one sound tree that holds what was written."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobfs.errors import IntegrityError, Rollback
from blobfs.sync.copies import conflict_name
from blobfs.sync.merge import State
from blobfs.sync.plan import plan
from blobfs.sync.situation import Remote
from blobfs.values.documents import ROOT, DocId, Kind, Name
from blobfs.values.extents import Attachment
from blobfs.values.revisions import DeviceId, Revision
from tests.sync.model import ModelDevice, ModelServer, converge, token


def pair() -> tuple[ModelDevice, ModelDevice]:
    server = ModelServer()
    return ModelDevice(1, server), ModelDevice(2, server)


def names(device: ModelDevice) -> dict[str, Kind]:
    """Every path on a device."""

    def path(name: Name) -> str:
        parents = () if name.parent == ROOT else device.tree()[name.parent].names
        return "".join(path(parent) + "/" for parent in parents) + name.name.decode()

    return {path(name): document.kind for document in device.tree().values() for name in document.names}


def only(device: ModelDevice, name: bytes, parent: DocId = ROOT) -> DocId:
    found = device.at(parent, name)
    assert found is not None
    return found


def place(name: str, parent: DocId = ROOT) -> Name:
    return Name(parent, name.encode())


def test_a_rename_here_and_an_edit_there_are_no_conflict() -> None:
    one, two = pair()
    one.create(Kind.FILE, place("a"), token(1))
    converge([one, two])
    one.move(only(one, b"a"), place("b"))
    two.write(only(two, b"a"), token(2))
    converge([one, two])
    assert names(one) == {"b": Kind.FILE}
    assert one.tree() == two.tree()
    assert one.tree()[only(one, b"b")].attachment == token(2)


def test_two_edits_of_the_content_keep_both() -> None:
    one, two = pair()
    one.create(Kind.FILE, place("report.txt"), token(1))
    converge([one, two])
    one.write(only(one, b"report.txt"), token(2))
    two.write(only(two, b"report.txt"), token(3))
    converge([one, two])
    assert one.tree() == two.tree()
    assert sorted(names(one)) == ["report (conflict label 1970-01-01 000000).txt", "report.txt"]
    assert one.tree()[only(one, b"report.txt")].attachment == token(2)
    assert {document.attachment for document in one.tree().values()} == {token(2), token(3)}


def test_two_new_directories_of_one_name_become_one() -> None:
    one, two = pair()
    for device, child in ((one, "x"), (two, "y")):
        device.create(Kind.DIRECTORY, place("d"), None)
        inner = only(device, b"d")
        device.create(Kind.FILE, place(child, inner), token(ord(child)))
        device.push(lambda changed: changed)
    converge([one, two])
    assert names(one) == {"d": Kind.DIRECTORY, "d/x": Kind.FILE, "d/y": Kind.FILE}
    assert one.tree() == two.tree()


def test_an_edit_beats_a_deletion_and_brings_its_directory_back() -> None:
    one, two = pair()
    one.create(Kind.DIRECTORY, place("d"), None)
    one.create(Kind.FILE, place("f", only(one, b"d")), token(1))
    converge([one, two])
    inside = only(one, b"d")
    one.delete(only(one, b"f", inside))
    one.delete(inside)
    two.write(only(two, b"f", inside), token(2))
    converge([one, two])
    assert names(one) == {"d": Kind.DIRECTORY, "d/f": Kind.FILE}
    assert one.tree() == two.tree()


def test_a_file_made_in_a_directory_that_another_device_deleted_brings_it_back() -> None:
    one, two = pair()
    one.create(Kind.DIRECTORY, place("d"), None)
    converge([one, two])
    one.delete(only(one, b"d"))
    two.create(Kind.FILE, place("f", only(two, b"d")), token(2))
    converge([one, two])
    assert names(one) == names(two) == {"d": Kind.DIRECTORY, "d/f": Kind.FILE}


def test_a_file_that_takes_the_name_of_one_that_still_lives_here_is_not_its_twin() -> None:
    # The larger id gives way.
    for moved, gone in ((b"a", b"b"), (b"b", b"a")):
        one, two = pair()
        one.create(Kind.FILE, place("a"), token(ord("a")))
        one.create(Kind.FILE, place("b"), token(ord("b")))
        converge([one, two])
        mover, former = only(one, moved), only(one, gone)
        one.move_over(mover, former)
        one.push(lambda changed, mover=mover: [mover])  # type: ignore[misc]
        two.pull(10)
        assert not two.local[mover].deleted
        converge([one, two])
        assert token(ord(moved)) in {document.attachment for document in one.tree().values()}
        assert one.tree() == two.tree()


def test_moves_that_form_a_cycle_are_broken_alike() -> None:
    one, two = pair()
    one.create(Kind.DIRECTORY, place("a"), None)
    one.create(Kind.DIRECTORY, place("b"), None)
    converge([one, two])
    one.move(only(one, b"a"), place("a", only(one, b"b")))
    two.move(only(two, b"b"), place("b", only(two, b"a")))
    one.push(lambda changed: changed)
    two.push(lambda changed: changed)
    converge([one, two])
    assert one.tree() == two.tree()
    assert len(one.tree()) == 2


def test_files_that_exchange_their_names_do_not_collide() -> None:
    one, two = pair()
    one.create(Kind.FILE, place("a"), token(1))
    one.create(Kind.FILE, place("b"), token(2))
    converge([one, two])
    first, second = only(one, b"a"), only(one, b"b")
    one.move(first, place("c"))
    one.move(second, place("a"))
    one.move(first, place("b"))
    converge([one, two])
    assert (only(two, b"a"), only(two, b"b")) == (second, first)


def test_equal_new_files_of_one_name_become_one() -> None:
    one, two = pair()
    for device in (one, two):
        device.create(Kind.FILE, place("a"), token(1))
        device.push(lambda changed: changed)
    converge([one, two])
    assert names(one) == names(two) == {"a": Kind.FILE}


def test_an_own_revision_whose_answer_was_lost_is_no_conflict() -> None:
    one, two = pair()
    one.create(Kind.FILE, place("a"), token(1))
    one.push(lambda changed: changed, lose_answer=True)
    one.move(only(one, b"a"), place("b"))
    one.write(only(one, b"b"), token(2))
    converge([one, two])
    assert names(one) == names(two) == {"b": Kind.FILE}


def test_an_older_revision_is_refused_and_the_others_go_on() -> None:
    one, two = pair()
    one.create(Kind.FILE, place("a"), token(1))
    converge([one, two])
    doc_id = only(one, b"a")
    old = one.base[doc_id]
    one.write(doc_id, token(2))
    converge([one, two])
    fresh = Remote(DocId("new"), Revision().advanced(DeviceId("f" * 16)), State(one.tree()[doc_id]))
    decided = plan(two, [old, fresh], device=two.device, label="two", new_id=lambda: DocId("copy"))
    assert [type(error) for _, error in decided.refused] == [Rollback]
    assert {action.doc_id for action in decided.actions} >= {DocId("new")}


def test_two_documents_under_one_revision_are_refused() -> None:
    one, two = pair()
    one.create(Kind.FILE, place("a"), token(1))
    converge([one, two])
    base = two.base[only(two, b"a")]
    forged = Remote(base.doc_id, base.revision, State(base.state.document, deleted=True))
    decided = plan(two, [forged], device=two.device, label="two", new_id=lambda: DocId("copy"))
    assert [type(error) for _, error in decided.refused] == [IntegrityError]
    assert decided.actions == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.tar", b"a (conflict laptop 1970-01-01 000000).tar"),
        (b".bashrc", b".bashrc (conflict laptop 1970-01-01 000000)"),
        (b"noext", b"noext (conflict laptop 1970-01-01 000000)"),
    ],
)
def test_a_conflict_name_keeps_the_extension(name: bytes, expected: bytes) -> None:
    assert conflict_name(name, "laptop", 0, lambda _: False) == expected


@given(st.binary(min_size=1, max_size=255), st.text(max_size=50), st.integers(-(1 << 62), 1 << 62))
def test_a_conflict_name_is_always_a_free_and_valid_name(name: bytes, device: str, mtime_ns: int) -> None:
    clean = name.replace(b"/", b"_").replace(b"\0", b"_")
    device = device.encode("utf-8", "ignore").decode()
    first = conflict_name(clean, device, mtime_ns, lambda _: False)
    second = conflict_name(clean, device, mtime_ns, lambda text: text == first)
    assert first != second
    assert all(0 < len(found) <= 255 and b"/" not in found and b"\0" not in found for found in (first, second))


# --- convergence --------------------------------------------------------------------------------------------

STEP = st.tuples(
    st.integers(0, 2),
    st.sampled_from(
        [
            "mkdir",
            "create",
            "create",
            "write",
            "write",
            "move",
            "move",
            "move over",
            "delete",
            "link",
            "chmod",
            "pull",
            "push",
            "lost",
        ]
    ),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.sampled_from([b"a", b"b", b"c"]),
)


class History:
    """Which bytes a user wrote, over which, and which they deleted."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.superseded: set[Attachment] = set()
        self.written: set[Attachment] = set()

    def fresh(self) -> Attachment:
        made = token(next(self.numbers))
        self.written.add(made)
        return made


def act(device: ModelDevice, history: History, verb: str, one: int, two: int, name: bytes) -> None:
    directories = [ROOT, *device.live(Kind.DIRECTORY)]
    where = Name(directories[one % len(directories)], name)
    everything, files = device.live(), device.live(Kind.FILE)
    if verb == "mkdir":
        device.create(Kind.DIRECTORY, where, None)
    elif verb == "create":
        made = history.fresh()
        if not device.create(Kind.FILE, where, made):
            history.written.discard(made)
    elif verb == "write" and files:
        doc_id = files[two % len(files)]
        old = device.local[doc_id].document.attachment
        assert old is not None
        history.superseded.add(old)
        device.write(doc_id, history.fresh())
    elif verb == "move" and everything:
        device.move(everything[two % len(everything)], where)
    elif verb == "move over" and files:
        other = files[one % len(files)]
        old = device.local[other].document.attachment
        if device.move_over(files[two % len(files)], other) and old is not None:
            history.superseded.add(old)
    elif verb == "link" and files:
        device.link(files[two % len(files)], where)
    elif verb == "chmod" and everything:
        device.chmod(everything[two % len(everything)], 0o700 + one % 8)
    elif verb == "delete" and everything:
        doc_id = everything[two % len(everything)]
        old = device.local[doc_id].document.attachment
        if device.delete(doc_id) and old is not None:
            history.superseded.add(old)
    elif verb == "pull":
        device.pull(1 + one % 4)
    elif verb in ("push", "lost"):
        device.push(lambda changed: changed[: 1 + one % 4], lose_answer=verb == "lost")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, max_size=60))
def test_all_devices_end_with_one_tree_that_holds_every_byte(
    steps: list[tuple[int, str, int, int, bytes]],
) -> None:
    server = ModelServer()
    devices = [ModelDevice(number, server) for number in (1, 2, 3)]
    history = History()
    for number, verb, one, two, name in steps:
        act(devices[number], history, verb, one, two, name)
        devices[number].check()
    converge(devices)
    trees = [device.tree() for device in devices]
    assert trees[0] == trees[1] == trees[2]
    assert all(device.is_visible(doc_id) for device in devices for doc_id in device.tree()), "nothing is hidden"
    kept = {document.attachment for document in trees[0].values()}
    assert history.written - history.superseded <= kept, "bytes that nobody replaced or deleted are gone"

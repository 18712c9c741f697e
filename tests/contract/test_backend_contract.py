"""What every `BlobsBackend` promises, tried on each one there is. A new backend adds itself to `BACKENDS`."""

import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from server.backends.filesystem import FilesystemBlobsBackend
from server.backends.interface import BlobKey, BlobReader, BlobsBackend
from server.backends.memory import MemoryBlobsBackend
from server.backends.objects import ObjectBlobsBackend, open_store
from tests.ceph import CephCluster

BACKENDS: dict[str, Callable[[Path], BlobsBackend]] = {
    "filesystem": lambda directory: FilesystemBlobsBackend(directory / "root"),
    "memory": lambda directory: MemoryBlobsBackend(),
    "objects in memory": lambda directory: ObjectBlobsBackend(MemoryStore(), directory / "spool"),
    "objects in files": lambda directory: ObjectBlobsBackend(
        open_store((directory / "objects").as_uri(), {}), directory / "spool"
    ),
}
HOLDING_ON = (FilesystemBlobsBackend, MemoryBlobsBackend)
"""Those whose readers outlive a deletion; others may fail then."""


@pytest.fixture(params=[*BACKENDS, "S3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> BlobsBackend:
    if request.param == "S3":
        ceph: CephCluster = request.getfixturevalue("ceph")
        # A prefix of its own is as good as an empty bucket, and cheaper.
        url = f"s3://{ceph.bucket}/{secrets.token_hex(8)}"
        return ObjectBlobsBackend(open_store(url, ceph.options), tmp_path / "spool")
    return BACKENDS[request.param](tmp_path)


def key(blob_id: str, user: str = "user", namespace: str = "default") -> BlobKey:
    return BlobKey(user, namespace, blob_id)


def put(backend: BlobsBackend, **blobs: bytes) -> None:
    items = []
    for blob_id, data in blobs.items():
        staged = backend.stage()
        staged.write(data[: len(data) // 2])
        staged.write(data[len(data) // 2 :])
        items.append((key(blob_id), staged))
    backend.sync([staged for _, staged in items])
    backend.publish(items)


def content(backend: BlobsBackend, wanted: BlobKey) -> bytes | None:
    reader = backend.open(wanted)
    if reader is None:
        return None
    try:
        return reader.read(0, reader.size + 10)
    finally:
        reader.close()


def read_on(backend: BlobsBackend, reader: BlobReader, offset: int, length: int) -> bytes | None:
    """What a reader gives whose blob is not there any more; None when it says so, which not every backend may."""
    try:
        return reader.read(offset, length)
    except FileNotFoundError:
        assert not isinstance(backend, HOLDING_ON)
        return None


def test_a_published_blob_is_there_with_its_size(backend: BlobsBackend) -> None:
    put(backend, one=b"content", empty=b"")
    assert content(backend, key("one")) == b"content"
    assert content(backend, key("empty")) == b""
    assert (backend.stat(key("one")), backend.stat(key("empty")), backend.stat(key("none"))) == (7, 0, None)


def test_an_item_is_invisible_until_it_is_published_and_gone_when_discarded(backend: BlobsBackend) -> None:
    staged = backend.stage()
    staged.write(b"half")
    backend.sync([staged])
    assert list(backend.list()) == []
    staged.discard()
    staged.discard()
    assert list(backend.list()) == []
    assert backend.sweep() == 0


def test_an_item_that_was_never_written_to_is_an_empty_blob(backend: BlobsBackend) -> None:
    staged = backend.stage()
    backend.sync([staged])
    backend.publish([(key("nothing"), staged)])
    staged.discard()
    assert backend.stat(key("nothing")) == 0


def test_publishing_again_replaces_and_an_open_reader_keeps_what_it_has(backend: BlobsBackend) -> None:
    put(backend, one=b"old")
    reader = backend.open(key("one"))
    assert reader is not None
    put(backend, one=b"newer")
    assert read_on(backend, reader, 0, 10) in (b"old", None)
    reader.close()
    reader.close()
    assert content(backend, key("one")) == b"newer"


def test_a_reader_outlives_the_deletion(backend: BlobsBackend) -> None:
    put(backend, one=b"content")
    reader = backend.open(key("one"))
    assert reader is not None
    backend.delete([key("one"), key("never")])
    assert (reader.size, reader.read(7, 5)) == (7, b"")
    assert read_on(backend, reader, 3, 2) in (b"te", None)
    reader.close()
    assert content(backend, key("one")) is None
    backend.delete([key("one")])


def test_any_range_can_be_read_in_any_order(backend: BlobsBackend) -> None:
    data = bytes(range(256)) * 40
    put(backend, one=data)
    reader = backend.open(key("one"))
    assert reader is not None
    for offset, length in [(10_000, 300), (0, 1), (255, 2), (10_239, 5), (20_000, 1), (0, 0)]:
        assert reader.read(offset, length) == data[offset : offset + length]
    reader.close()


def test_users_and_namespaces_and_ids_are_kept_apart(backend: BlobsBackend) -> None:
    keys = [
        key("a"),
        key("ab"),
        key("abc"),
        key("abcdef"),
        key("abcdefg"),
        key("a", namespace="other"),
        key("a", "user2"),
    ]
    keys += [key("-"), key("_"), key("x" * 128), key("default", "default", "default")]
    staged = [backend.stage() for _ in keys]
    for number, item in enumerate(staged):
        item.write(str(number).encode())
    backend.sync(staged)
    backend.publish(list(zip(keys, staged, strict=True)))
    assert [content(backend, wanted) for wanted in keys] == [str(number).encode() for number in range(len(keys))]
    assert dict(backend.list()) == {wanted: len(str(number)) for number, wanted in enumerate(keys)}
    backend.delete(keys[:1])
    assert set(dict(backend.list())) == set(keys[1:])


def test_many_items_are_published_together(backend: BlobsBackend) -> None:
    blobs = {f"{number:03}" * 10: str(number).encode() for number in range(100)}
    put(backend, **blobs)
    assert {wanted.blob_id: content(backend, wanted) for wanted, _ in backend.list()} == blobs


def test_neighbours_may_come_and_go_at_the_same_time(backend: BlobsBackend) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(60):
                put(backend, **{f"abcdef{number}": b"x" * number})
                assert content(backend, key(f"abcdef{number}")) == b"x" * number
                backend.delete([key(f"abcdef{number}")])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(backend.list()) == []


def test_what_a_dead_process_staged_is_swept(tmp_path: Path) -> None:
    first = FilesystemBlobsBackend(tmp_path)
    staged = first.stage()
    staged.write(b"left")
    staged.close()
    assert FilesystemBlobsBackend(tmp_path).sweep() == 1
    assert FilesystemBlobsBackend(tmp_path).sweep() == 0


def test_a_link_in_a_blobs_place_is_not_followed(tmp_path: Path) -> None:
    backend = FilesystemBlobsBackend(tmp_path / "root")
    put(backend, abcdefg=b"x")
    secret = tmp_path / "secret"
    secret.write_text("outside")
    (tmp_path / "root/user/default/ab/abcdefh").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        backend.open(key("abcdefh"))
    assert backend.stat(key("abcdefh")) is None
    assert [wanted.blob_id for wanted, _ in backend.list()] == ["abcdefg"]


def test_an_object_store_that_cannot_be_used_is_an_os_error(tmp_path: Path, ceph: CephCluster) -> None:
    for url, options in (
        ("nonsense://bucket", {}),
        (f"s3://{ceph.bucket}", {"nonsense": "x"}),
        ("s3://no-such-bucket", ceph.options),
        (f"s3://{ceph.bucket}", ceph.options | {"secret_access_key": "wrong"}),
    ):
        with pytest.raises(OSError) as failure:  # noqa: PT011 - of which kind does not matter
            ObjectBlobsBackend(open_store(url, options), tmp_path / "spool")
        assert "wrong" not in str(failure.value).replace("are wrong", "")
        assert "\n" not in str(failure.value.strerror)

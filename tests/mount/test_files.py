"""Files, names and attributes, as on any disk."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest


def failure(call: Callable[[], object]) -> str:
    """The name of the errno that a call fails with; empty when it does not."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def test_what_is_written_is_read_by_another_handle_before_close(folder: Path) -> None:
    with open(folder / "a", "wb", buffering=0) as writer, open(folder / "a", "rb", buffering=0) as reader:
        writer.write(b"one")
        assert reader.read() == b"one"
        writer.write(b"two")
        assert reader.read() == b"two"
        assert os.fstat(reader.fileno()).st_size == 6


def test_readers_and_mappings_see_what_one_writes_who_opened_it_for_writing_alone(folder: Path) -> None:
    path = folder / "log"
    writer = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(writer, bytes(5000))
        with open(path, "rb", buffering=0) as reader, mmap.mmap(reader.fileno(), 5000, prot=mmap.PROT_READ) as mapping:
            for number in range(1, 20):
                assert mapping[:] == os.pread(reader.fileno(), 5000, 0)  # every page is in the cache
                text = b"%d" % number * 50
                os.pwrite(writer, text, 250 * number)
                assert os.pread(reader.fileno(), len(text), 250 * number) == text
                assert mapping[250 * number :][: len(text)] == text
            os.lseek(writer, 0, os.SEEK_END)
            os.write(writer, b"more")
            assert os.pread(reader.fileno(), 10, 5000) == b"more"
            assert reader.read() == mapping[:] + b"more"
    finally:
        os.close(writer)


def test_writing_in_the_middle_keeps_the_rest(folder: Path) -> None:
    body = bytearray(os.urandom(1_000_000))
    (folder / "a").write_bytes(body)
    for offset, length in ((0, 10), (131_000, 500), (262_144, 131_072), (999_990, 10)):
        piece = os.urandom(length)
        with open(folder / "a", "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(piece)
        body[offset : offset + length] = piece
        assert (folder / "a").read_bytes() == body


def test_two_appenders_lose_nothing(folder: Path) -> None:
    def append(mark: bytes) -> None:
        descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in range(200):
            os.write(descriptor, mark * 10 + b"%04d\n" % number)
        os.close(descriptor)

    threads = [threading.Thread(target=append, args=(mark,)) for mark in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (folder / "log").read_bytes().splitlines()
    assert sorted(lines) == sorted(mark * 10 + b"%04d" % number for mark in (b"a", b"b") for number in range(200))


def test_truncating_and_growing_again_shows_zeros(folder: Path) -> None:
    path = folder / "a"
    with open(path, "w+b", buffering=0) as file:
        file.write(b"x" * 300_000)
        os.ftruncate(file.fileno(), 150_001)
        os.ftruncate(file.fileno(), 400_000)
        file.seek(0)
        assert file.read() == b"x" * 150_001 + bytes(249_999)
    os.truncate(path, 3)
    assert path.read_bytes() == b"xxx"
    with open(path, "wb"):
        assert path.stat().st_size == 0


def test_a_sparse_file_of_1_tib_takes_no_space(folder: Path) -> None:
    path = folder / "sparse"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 39) + 5)
        file.write(b"needle")
    with open(path, "rb") as file:
        file.seek(1 << 39)
        assert file.read(20) == b"\0\0\0\0\0needle" + bytes(9)
    assert path.stat().st_size == 1 << 40
    assert path.stat().st_blocks * 512 <= 256 << 10


def test_a_file_past_the_largest_size_is_refused(folder: Path) -> None:
    (folder / "a").touch()
    assert failure(lambda: os.truncate(folder / "a", (1 << 44) + 1)) == "EFBIG"


def test_an_unlinked_file_lives_until_its_last_close(folder: Path) -> None:
    with open(folder / "a", "w+b", buffering=0) as file:
        file.write(b"before")
        os.unlink(folder / "a")
        file.write(b"after")
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o600)
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), 100, 0) == b"beforeafter"
    assert list(folder.iterdir()) == []


def test_a_replaced_file_lives_for_those_who_have_it_open(folder: Path) -> None:
    (folder / "old").write_bytes(b"old")
    (folder / "new").write_bytes(b"new")
    with open(folder / "old", "r+b", buffering=0) as file:
        os.rename(folder / "new", folder / "old")
        assert file.read() == b"old"
        file.write(b"!")
        assert os.pread(file.fileno(), 10, 0) == b"old!"
    assert (folder / "old").read_bytes() == b"new"


def test_hard_links_share_everything_and_are_counted(folder: Path) -> None:
    (folder / "a").write_bytes(b"one")
    os.link(folder / "a", folder / "b")
    assert (folder / "a").stat().st_nlink == 2
    assert (folder / "a").stat().st_ino == (folder / "b").stat().st_ino
    (folder / "b").write_bytes(b"two")
    assert (folder / "a").read_bytes() == b"two"
    (folder / "a").unlink()
    assert (folder / "b").stat().st_nlink == 1
    assert failure(lambda: os.link(folder, folder / "c")) == "EPERM"


def test_symlinks_keep_their_bytes(folder: Path) -> None:
    target = b"../" + bytes(range(128, 256)) + b"/x" * 500
    os.symlink(target, bytes(folder) + b"/link")
    assert os.readlink(bytes(folder) + b"/link") == target
    assert os.lstat(folder / "link").st_size == len(target)
    os.symlink("loop", folder / "loop")
    assert failure(lambda: os.stat(folder / "loop")) == "ELOOP"


def test_special_files_are_what_they_were_made_as(folder: Path) -> None:
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    directory = os.open(folder, os.O_RDONLY)  # a socket's address has room for 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/s")
    os.close(directory)
    modes = {name: (folder / name).lstat().st_mode for name in ("fifo", "device", "s")}
    assert stat.S_ISFIFO(modes["fifo"])
    assert stat.S_ISCHR(modes["device"])
    assert stat.S_ISSOCK(modes["s"])
    assert (folder / "device").lstat().st_rdev == os.makedev(1, 3)
    assert failure((folder / "device").read_bytes) == "EACCES"  # nodev


def test_names_are_255_bytes_of_any_value(folder: Path) -> None:
    names = {bytes([value]) * 255 for value in (1, 10, 92, 128, 255)} | {bytes(range(1, 47)), b"-", b"\xff\xfe"}
    for name in names:
        with open(os.path.join(bytes(folder), name), "wb") as file:
            file.write(name)
    assert set(os.listdir(bytes(folder))) == names
    for name in names:
        with open(os.path.join(bytes(folder), name), "rb") as file:
            assert file.read() == name
    assert failure(lambda: os.mkdir(os.path.join(bytes(folder), b"x" * 256))) == "ENAMETOOLONG"


def test_errors_are_those_of_any_disk(folder: Path) -> None:
    (folder / "d" / "e").mkdir(parents=True)
    (folder / "f").touch()
    seen = {}
    for what, call in {
        "rmdir of a full directory": lambda: os.rmdir(folder / "d"),
        "rmdir of a file": lambda: os.rmdir(folder / "f"),
        "unlink of a directory": lambda: os.unlink(folder / "d"),
        "mkdir of what is there": lambda: os.mkdir(folder / "d"),
        "into itself": lambda: os.rename(folder / "d", folder / "d" / "e" / "x"),
        "file over directory": lambda: os.rename(folder / "f", folder / "d" / "e"),
        "directory over file": lambda: os.rename(folder / "d", folder / "f"),
        "below a file": lambda: os.stat(folder / "f" / "x"),
        "nothing there": lambda: os.stat(folder / "x"),
        "to another filesystem": lambda: os.rename(folder / "f", "/proc/self/x"),
    }.items():
        seen[what] = failure(call)
    assert seen == {
        "rmdir of a full directory": "ENOTEMPTY",
        "rmdir of a file": "ENOTDIR",
        "unlink of a directory": "EISDIR",
        "mkdir of what is there": "EEXIST",
        "into itself": "EINVAL",
        "file over directory": "EISDIR",
        "directory over file": "ENOTDIR",
        "below a file": "ENOTDIR",
        "nothing there": "ENOENT",
        "to another filesystem": "EXDEV",
    }


def renameat2(source: Path, target: Path, flags: int) -> None:
    """rename with flags, which Python has no call for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, bytes(source), -100, bytes(target), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_rename_can_exchange_and_can_refuse_to_replace(folder: Path) -> None:
    (folder / "file").write_bytes(b"file")
    (folder / "directory").mkdir()
    (folder / "directory" / "inside").touch()
    assert failure(lambda: renameat2(folder / "file", folder / "directory", 1)) == "EEXIST"
    renameat2(folder / "file", folder / "directory", 2)
    assert (folder / "directory").read_bytes() == b"file"
    assert (folder / "file" / "inside").exists()
    renameat2(folder / "file", folder / "moved", 1)
    assert sorted(path.name for path in folder.iterdir()) == ["directory", "moved"]


def test_directories_count_their_directories(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
    (folder / "file").touch()
    assert folder.stat().st_nlink == 4
    (folder / "a").rmdir()
    assert folder.stat().st_nlink == 3


def test_a_directory_read_while_it_changes_shows_what_stays_once(folder: Path) -> None:
    for number in range(3000):
        (folder / f"{number:04}").touch()
    seen = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 100 == 50:
                (folder / f"{2999 - count // 100:04}").unlink()
                (folder / f"new{count}").touch()
    stayed = {f"{number:04}" for number in range(2970)}
    assert stayed <= set(seen)
    assert len(seen) == len(set(seen))


def save_anew(path: Path) -> None:
    path.with_name("new").touch()
    path.with_name("new").replace(path)


def make_anew(path: Path) -> None:
    path.unlink()
    path.touch()


def copy_aside(path: Path) -> None:
    path.with_name(f"{path.name}~").touch()


@pytest.mark.parametrize("change", [save_anew, make_anew, copy_aside])
def test_a_listing_ends_though_every_name_in_it_is_made_anew(folder: Path, change: Callable[[Path], None]) -> None:
    for name in "abc":
        (folder / name).touch()
    seen = []
    with os.scandir(folder) as entries:
        for entry in entries:
            seen.append(entry.name)
            assert len(seen) <= 3
            change(Path(entry.path))
    assert sorted(seen) == ["a", "b", "c"]


def test_a_name_that_is_replaced_while_a_directory_is_read_is_read_once(folder: Path) -> None:
    for number in range(3000):
        (folder / f"{number:04}").touch()
    with os.scandir(folder) as entries:
        seen = [next(entries).name]
        for number in (0, 1, 2997, 2998, 2999):
            save_anew(folder / f"{number:04}")
        seen += [entry.name for entry in entries]
    assert sorted(seen) == [f"{number:04}" for number in range(3000)]


def test_a_directory_that_is_read_again_from_its_beginning_shows_what_is_new(folder: Path) -> None:
    (folder / "a").touch()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        assert os.listdir(descriptor) == ["a"]
        (folder / "b").touch()
        assert os.listdir(descriptor) == ["a", "b"]
    finally:
        os.close(descriptor)


def test_listings_of_any_length_are_whole(folder: Path) -> None:
    lengths = (0, 1, 15, 16, 17, 31, 47, 48, 49, 111, 112, 113, 300)  # around where the store is asked once more
    for length in lengths:
        (folder / f"{length}").mkdir()
        for number in range(length):
            (folder / f"{length}" / f"{number}").touch()
    for length in (*lengths, *reversed(lengths)):  # how much it is asked for depends on what was listed before
        assert sorted(os.listdir(folder / f"{length}"), key=int) == [f"{number}" for number in range(length)]


def test_times_are_in_nanoseconds_and_ctime_follows_every_change(folder: Path) -> None:
    path = folder / "a"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_111_111_111_123_456_789, -2_222_222_222_987_654_321))
    seen = path.stat()
    assert (seen.st_atime_ns, seen.st_mtime_ns) == (1_111_111_111_123_456_789, -2_222_222_222_987_654_321)
    ctimes = [seen.st_ctime_ns]
    for change in (
        lambda: path.chmod(0o600),
        lambda: os.link(path, folder / "b"),
        lambda: os.unlink(folder / "b"),
        lambda: os.setxattr(path, "user.a", b"b"),
        lambda: os.rename(path, folder / "c"),
        lambda: os.rename(folder / "c", path),
    ):
        change()
        ctimes.append(next(folder.iterdir()).stat().st_ctime_ns)
    assert ctimes == sorted(set(ctimes))
    assert path.stat().st_mtime_ns == -2_222_222_222_987_654_321


def test_bytes_that_are_stored_later_do_not_set_the_change_time_back(folder: Path) -> None:
    path, other = folder / "a", folder / "b"
    with open(path, "w+b", buffering=0) as file:
        for change in (
            lambda: os.setxattr(path, "user.a", b"1"),
            lambda: os.removexattr(path, "user.a"),
            lambda: path.rename(other),
            lambda: os.link(other, path),
            lambda: other.unlink(),
            lambda: path.chmod(0o600),
        ):
            file.write(b"x")
            change()
            seen = os.fstat(file.fileno()).st_ctime_ns
            os.fsync(file.fileno())
            os.pread(file.fileno(), 1, 0)  # after which the kernel asks for all times anew
            assert os.fstat(file.fileno()).st_ctime_ns == seen


def test_a_time_out_of_range_becomes_the_nearest(folder: Path) -> None:
    path = folder / "a"
    path.touch()
    os.utime(path, ns=(1 << 70, -(1 << 70)))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == ((1 << 63) - 1, 1 - (1 << 63))


def test_times_set_on_an_open_file_survive_its_close(folder: Path) -> None:
    with open(folder / "a", "wb", buffering=0) as file:
        file.write(b"x" * 10)
        os.utime(file.fileno(), ns=(5, 7))
    assert (folder / "a").stat().st_mtime_ns == 7


def test_what_is_touched_after_something_was_written_is_not_the_older_one(folder: Path) -> None:
    written, touched = folder / "written", folder / "touched"
    for _ in range(50):
        written.write_bytes(b"x")
        touched.touch()
        assert written.stat().st_mtime_ns <= touched.stat().st_mtime_ns


def test_writing_moves_mtime_and_reading_moves_nothing(folder: Path) -> None:
    path = folder / "a"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    path.read_bytes()
    assert path.stat().st_atime_ns == 1
    with open(path, "ab", buffering=0) as file:
        file.write(b"y")
        during = os.fstat(file.fileno()).st_mtime_ns
    assert during > 1
    assert path.stat().st_mtime_ns == during


def test_extended_attributes_follow_their_rules(folder: Path) -> None:
    path = folder / "a"
    path.touch()
    os.setxattr(path, "user.small", b"")
    os.setxattr(path, "user.large", b"z" * 65536)
    assert sorted(os.listxattr(path)) == ["user.large", "user.small"]
    assert os.getxattr(path, "user.large") == b"z" * 65536
    os.setxattr(folder, "user.on a directory", b"d")
    seen = []
    for call in (
        lambda: os.setxattr(path, "user.small", b"", os.XATTR_CREATE),
        lambda: os.setxattr(path, "user.none", b"", os.XATTR_REPLACE),
        lambda: os.getxattr(path, "user.none"),
        lambda: os.removexattr(path, "user.none"),
        lambda: os.getxattr(path, "security.capability"),
        lambda: os.getxattr(path, "system.posix_acl_access"),
        lambda: os.setxattr(path, "system.posix_acl_access", b"\2\0\0\0"),
        lambda: os.setxattr(path, "user.huge", b"z" * 65537),
        lambda: os.setxattr(path, "trusted.a", b"b"),
    ):
        seen.append(failure(call))
    acl = "ENOTSUP"
    assert seen == ["EEXIST", "ENODATA", "ENODATA", "ENODATA", "ENODATA", acl, acl, "E2BIG", "ENOTSUP"]
    os.removexattr(path, "user.small")
    assert os.listxattr(path) == ["user.large"]


@pytest.mark.parametrize(
    ("name", "refusal"), [("user.", "EINVAL"), ("user", "ENOTSUP"), ("other.a", "ENOTSUP"), ("trusted.a", "ENODATA")]
)
def test_an_extended_attribute_has_a_namespace_and_a_name(folder: Path, name: str, refusal: str) -> None:
    path = folder / "a"
    path.touch()
    assert failure(lambda: os.setxattr(path, name, b"x")) == refusal.replace("ENODATA", "ENOTSUP")
    assert failure(lambda: os.getxattr(path, name)) == refusal
    assert failure(lambda: os.removexattr(path, name)) == refusal


def test_mapped_files_are_read_and_written(folder: Path) -> None:
    path = folder / "a"
    path.write_bytes(b"a" * 300_000)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[131_070:131_080] = b"0123456789"
        assert view[131_068:131_082] == b"aa0123456789aa"
        view.flush()
        assert path.read_bytes()[131_068:131_082] == b"aa0123456789aa"
        view[5:6] = b"!"
    assert path.read_bytes()[:8] == b"aaaaa!aa"


def test_direct_io_and_locks_work(folder: Path) -> None:
    descriptor = os.open(folder / "a", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    with mmap.mmap(-1, 8192) as page:
        page[:] = b"d" * 8192
        assert os.write(descriptor, page) == 8192
        assert os.pread(descriptor, 8192, 0) == b"d" * 8192
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    other = os.open(folder / "a", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    os.close(other)
    os.close(descriptor)


def test_an_unnamed_temporary_file_is_refused_properly(folder: Path) -> None:
    assert failure(lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR)) == "ENOTSUP"


def test_df_shows_the_disk_of_the_store(folder: Path, tmp_path: Path) -> None:
    seen, disk = os.statvfs(folder), os.statvfs(tmp_path)
    assert seen.f_blocks * seen.f_frsize == disk.f_blocks * disk.f_frsize
    assert seen.f_namemax == 255
    assert 0 < seen.f_bavail <= seen.f_blocks


def test_du_counts_what_is_stored(folder: Path) -> None:
    (folder / "a").write_bytes(os.urandom(500_000))
    blocks = (folder / "a").stat().st_blocks * 512
    assert 500_000 <= blocks <= 700_000


def test_a_file_of_many_small_writes_is_whole(folder: Path) -> None:
    body = os.urandom(3_000_000)
    with open(folder / "a", "wb", buffering=0) as file:
        for offset in range(0, len(body), 7001):
            file.write(body[offset : offset + 7001])
    assert (folder / "a").read_bytes() == body


@pytest.mark.long
def test_a_file_of_3_gib_is_whole(folder: Path) -> None:
    block = os.urandom(1 << 20)
    with open(folder / "a", "wb", buffering=0) as file:
        for number in range(3 << 10):
            file.write(number.to_bytes(8, "big") + block[8:])
    with open(folder / "a", "rb", buffering=0) as file:
        for number in range(3 << 10):
            assert file.read(1 << 20) == number.to_bytes(8, "big") + block[8:]

"""What another user of this machine, a thief of its disk and a malicious name get: nothing."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from blobfs import control, status
from blobfs.config import SOCKET
from blobfs.errors import BlobfsError
from blobfs.store.store import Store
from blobfs.values import crypto
from blobfs.values.documents import DocId, Json, dump
from blobfs.values.revisions import DeviceId, Revision
from tests.e2e.conftest import device, server
from tests.e2e.devices import Device, Server, blobfs
from tests.sync.kit import KEYS, Account, trio_test, until
from tests.threats.evil import Evil, on_feed
from tests.threats.test_documents import _forged as forged
from tests.threats.test_documents import _parked as parked
from tests.watches import kill_for_good

__all__ = ["device", "server"]
ROOT = Path(__file__).parents[2]
CANARY = "canary-5f2d1c-passphrase"
NOBODY = 65534


# --- the disk, /proc, the log -----------------------------------------------------------------------------


def test_a_canary_is_in_no_file_argument_environment_or_log_and_all_files_are_private(
    server: Server, device: Callable[..., Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("BLOBFS_DEBUG", "1")
    left = device("left", server.add_user("alice")["invite"])
    left.passphrase.write_text(CANARY + "\n")
    left.up()
    token = left_invite_token(left)
    (left.mount / CANARY).mkdir()
    (left.mount / CANARY / "file").write_bytes(CANARY.encode() * 10_000)
    left.sync()
    (left.mount / CANARY / "unsent").write_bytes(CANARY.encode() * 50_000)
    pid = int(left.status()["pid"])
    for name in ("cmdline", "environ"):
        shown = Path(f"/proc/{pid}/{name}").read_bytes()
        assert CANARY.encode() not in shown
        assert token not in shown
    limits = Path(f"/proc/{pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    mounted = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(left.mount) in line)
    options = mounted.split()[5].split(",")
    assert {"nosuid", "nodev"} <= set(options)
    assert "allow_other" not in mounted
    for path in (left.store, *left.store.rglob("*")):
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue  # given up by the daemon, which is at work
        assert not stat.S_ISLNK(info.st_mode), path
        assert stat.S_IMODE(info.st_mode) & 0o077 == 0, path
    kill_for_good(pid)
    wrong = tmp_path / "wrong"
    wrong.write_text(CANARY + "-wrong\n")
    refused = blobfs("mount", str(left.mount), "--store", str(left.store), "--passphrase-file", str(wrong))
    assert refused.returncode != 0
    assert CANARY not in refused.stdout + refused.stderr
    # What it still has on its way would come and go while it is read.
    server.stop()
    for root in (left.store, scratch, server.data):
        for path in (path for path in root.rglob("*") if path.is_file()):
            data = path.read_bytes()
            assert CANARY.encode() not in data, path
            assert CANARY not in str(path.relative_to(root))
            assert token not in data or root != left.store, path


def left_invite_token(device: Device) -> bytes:
    from blobfs.protocol import parse_invite

    return parse_invite(blobfs("invite", str(device.mount)).stdout).token.encode()


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user of this machine may enter; those of pytest are closed."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)


AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
READ_MEMORY = """
import ctypes, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "hardened":
    from blobfs.process import harden
    harden()
probe = "import sys; open(f'/proc/{sys.argv[1]}/mem', 'rb')"
done = subprocess.run([sys.executable, "-S", "-c", probe, str(os.getpid())], stderr=subprocess.PIPE, text=True)
print("refused" if "PermissionError" in done.stderr else "opened" if not done.returncode else done.stderr)
"""

if os.geteuid() == 0:  # Only root can become somebody else.

    def test_a_process_of_the_same_user_cannot_read_the_daemons_memory(open_place: Path) -> None:
        code = open_place / "code"
        # Somebody else reads neither this repository nor the virtual environment, perhaps.
        (code / "blobfs").mkdir(parents=True)
        (code / "blobfs" / "__init__.py").touch()
        for name in ("process.py", "errors.py"):
            (code / "blobfs" / name).write_bytes((ROOT / "blobfs" / name).read_bytes())
        for path in (code, *code.rglob("*")):
            os.chmod(path, 0o755)
        done = subprocess.run(
            [*AS_NOBODY, _python(), "-S", "-c", READ_MEMORY, str(code), "hardened"],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert done.stdout.strip() == "refused", done.stderr

    def test_another_users_process_gets_no_answer_from_the_control_socket(open_place: Path) -> None:
        asked: list[Json] = []

        async def answer(question: Json) -> Json:
            asked.append(question)
            return {}

        code = (
            "import socket, sys\n"
            "with socket.socket(socket.AF_UNIX) as peer:\n"
            "    peer.settimeout(60)\n"
            "    peer.connect(sys.argv[1])\n"
            "    try:\n"
            '        peer.sendall(b\'{"command": "status"}\\n\')\n'
            "        print(repr(peer.recv(100)))\n"
            "    except (ConnectionResetError, BrokenPipeError):\n"
            "        print(\"b''\")\n"
        )

        async def main() -> None:
            async with control.serving(open_place, {"status": answer}):
                os.chmod(open_place / SOCKET, 0o666)  # As if the directory and the mode had not kept it out.
                argv = [*AS_NOBODY, _python(), "-S", "-c", code, str(open_place / SOCKET)]
                with trio.fail_after(60):
                    done = await trio.run_process(argv, capture_stdout=True, cwd="/", check=False)
                assert done.stdout.strip() == b"b''"

        trio.run(main)
        assert not asked

    def test_another_user_reads_neither_mount_nor_store(server: Server, device: Callable[..., Device]) -> None:
        left = device("left", server.add_user("alice")["invite"])
        left.up()
        (left.mount / "file").write_bytes(b"mine")
        for path in (left.mount / "file", left.mount, left.store / "documents.db"):
            done = subprocess.run([*AS_NOBODY, "cat", str(path)], capture_output=True, check=False)
            assert done.returncode != 0
            assert b"mine" not in done.stdout


def _python() -> str:
    """An interpreter that another user may run."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else os.path.realpath(sys.executable)


@pytest.mark.parametrize("name", ["documents.db", "blobs.db", "lock"])
def test_a_link_in_the_state_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    Store.create(tmp_path / "store", KEYS, device_name="one").close()
    target = tmp_path / "precious"
    (tmp_path / "store" / name).rename(target)
    before = target.read_bytes()
    (tmp_path / "store" / name).symlink_to(target)
    with pytest.raises(BlobfsError):
        Store.open(tmp_path / "store", KEYS)
    assert target.read_bytes() == before


def test_a_socket_address_in_the_state_directory_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    store = tmp_path / "store"
    store.mkdir()
    (store / SOCKET).symlink_to(target)

    async def main() -> None:
        async with control.serving(store, {}):
            assert stat.S_ISSOCK((store / SOCKET).lstat().st_mode)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(os.fspath(store / SOCKET))

    trio.run(main)
    assert target.read_bytes() == b"precious"


def test_the_keys_of_the_databases_are_in_memory_that_is_never_swapped(tmp_path: Path) -> None:
    Store.create(tmp_path / "store", KEYS, device_name="one").close()
    locked = re.search(r"^VmLck:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert locked is not None
    assert int(locked[1]) > 0


# --- names and modes from a peer --------------------------------------------------------------------------

BAD_NAMES = ["", ".", "..", "a/b", "/etc/passwd", "../up", "nul\0", "x" * 256, "\ud800"]


def sealed_by_a_peer(doc_id: str, **changes: object) -> dict[str, object]:
    """A document that a device of the account sealed, whatever is in it."""
    body = {
        "format": 1, "kind": "file", "names": [["root", "name"]], "mode": 0o600, "uid": 0, "gid": 0,
        "mtime_ns": 0, "birth_ns": 0, "content": {},
    } | changes  # fmt: skip
    revision = Revision.of({DeviceId("1" * 16): 1})
    payload = crypto._seal_document(KEYS, DocId(doc_id), dump(body), revision, False, os.urandom(12))
    return forged(doc_id, payload, revision=str(revision))


@trio_test
async def test_names_of_a_peer_cannot_leave_their_directory(account: Account, evil: Evil) -> None:
    entries = [sealed_by_a_peer(f"{n:032x}", names=[["root", name]]) for n, name in enumerate(BAD_NAMES)]
    entries += [
        sealed_by_a_peer("a" * 32, names=[["../root", "x"]]),
        sealed_by_a_peer("b" * 32, mode=0o100644),
        sealed_by_a_peer("c" * 32, kind="symlink", target="nul\0"),
        sealed_by_a_peer("d" * 32, attachment={"size": 1 << 60, "depth": 0, "padded": False, "ids": []}),
        sealed_by_a_peer("e" * 32, xattrs={"security.capability": "AAAA"}),
        sealed_by_a_peer("f" * 32, heads={"1" * 16: 10**30}),
        sealed_by_a_peer("0a" * 16, heads={"x": 1}),
        sealed_by_a_peer("0b" * 16, sealer="../../etc"),
    ]
    evil.attack = on_feed(lambda documents: [*documents, *entries])
    async with account.device("two", url=evil.url) as two:
        two.write("mine", b"mine")
        await two.settle()
        await until(lambda: len(two.engine.status().parked) == len(entries))
        assert set(two.paths()) == {"mine"}
        assert all("breaks the format" in parked(two, str(entry["doc_id"]))[0] for entry in entries)


@trio_test
async def test_names_that_a_terminal_would_obey_are_only_bytes(account: Account, evil: Evil) -> None:
    names = ["line\nbreak", "\x1b[2Jcleared", "\u202egnp.exe", "\udcff", " ", "-rf", "x" * 255, "CON", "con"]
    entries = [sealed_by_a_peer(f"{n:032x}", names=[["root", name]]) for n, name in enumerate(names)]
    evil.attack = on_feed(lambda documents: [*documents, *entries])
    async with account.device("two", url=evil.url) as two:
        two.write("mine", b"mine")
        await two.settle()
        wanted = {name.encode("utf-8", "surrogateescape") for name in names} | {b"mine"}
        root = two.node("").inode
        await until(lambda: {entry.name for entry in two.store.tree.entries(root, 0, 100)} == wanted)
    for name in names:
        shown = status.printable(name)
        assert shown.isprintable()
        assert "\x1b" not in shown
        assert "\u202e" not in shown

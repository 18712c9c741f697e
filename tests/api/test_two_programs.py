"""Programs that share a store without a mount: one owns it, the others work through that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blobfs
from blobfs import AttachmentState, BlobStatus
from blobfs.errors import RemoteUnavailable, StoreInUse, WrongPassphrase
from blobfs.store.store import holding
from tests.api.conftest import OpenDevice
from tests.api.test_attachments import read
from tests.api.test_documents import get
from tests.e2e.devices import PASSPHRASE

ROOT = Path(__file__).parents[2]
PATIENT = "import blobfs.api.opening; blobfs.api.opening.PATIENCE_S = 60"
"""How long the owner of a store may take before it answers others, on a machine that has other things to do."""
OWNER = """
import sys, blobfs
with blobfs.open_account({store!r}, passphrase={passphrase!r}) as account:
    account.create_doc({{"by": "owner"}}, doc_id="owned")
    print("open", flush=True)
    for line in sys.stdin:
        print(eval(line), flush=True)
"""


class Program:
    """A process that has opened an account first, and does what it is told."""

    def __init__(self, store: Path) -> None:
        code = OWNER.format(store=str(store), passphrase=PASSPHRASE)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n"

    def ask(self, expression: str) -> str:
        """What it makes of an expression."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(expression, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> None:
        """Have it close the account."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture
def store(device: OpenDevice, tmp_path: Path) -> Path:
    """A store that nobody has open."""
    device("one").close()
    return tmp_path / "one"


@pytest.fixture
def program(store: Path) -> Iterator[Program]:
    """A program that owns the store."""
    running = Program(store)
    with running.process:
        yield running
        if running.process.poll() is None:
            running.process.kill()


def test_a_second_program_that_knows_the_passphrase_works_through_the_first(store: Path, program: Program) -> None:
    with pytest.raises(WrongPassphrase), blobfs.open_account(store, passphrase="wrong"):
        pass
    with blobfs.open_account(store, passphrase=PASSPHRASE) as account:
        assert get(account, "owned").content == {"by": "owner"}
        doc = account.create_doc({"by": "second"}, "mine", path="Mail/mine.eml", attachment=b"bytes")
        doc.put_attachment(b"further", name="further")
        account.put_doc(doc)
        assert doc.upload_attachment() is AttachmentState.SYNCED
        account.blobs.put("blob", b"of the second")
        assert account.blobs.upload("blob") is BlobStatus.SYNCED
        assert program.ask("account.get_doc('mine').get_attachment('further').read()") == "b'further'"
        assert program.ask("account.blobs.get('blob').read()") == "b'of the second'"
        with account.changes() as changes:
            program.ask("account.create_doc({}, doc_id='news')")
            assert next(changes) == "news"


def test_what_the_first_program_leaves_behind_the_second_owns_after_opening_again(
    store: Path, program: Program
) -> None:
    with blobfs.open_account(store, passphrase=PASSPHRASE) as account:
        doc = account.create_doc({}, "kept")
        doc.put_attachment(b"staged, and never put")
        file = get(account, "owned")
        waiting = account.changes()
        program.end()
        assert program.process.returncode == 0
        assert list(waiting) == []
        with pytest.raises(RemoteUnavailable, match=r"ended; open the account again") as told:
            account.get_doc("kept")
        assert told.value.retriable
        with pytest.raises(RemoteUnavailable):
            account.put_doc(file)
        assert list(account.changes()) == []
    with blobfs.open_account(store, passphrase=PASSPHRASE) as account:
        assert get(account, "kept").get_attachment_state() is AttachmentState.NONE
        with blobfs.open_account(store, passphrase=PASSPHRASE) as through:
            through.create_doc({}, "through", attachment=b"me")
        assert read(get(account, "through")) == b"me"


def test_a_first_program_that_is_killed_loses_nothing_that_the_second_had_put(store: Path, program: Program) -> None:
    with blobfs.open_account(store, passphrase=PASSPHRASE) as account:
        account.create_doc({}, "kept", attachment=b"bytes")
        os.kill(program.process.pid, signal.SIGKILL)
        program.process.wait(60)
        with pytest.raises(RemoteUnavailable):
            account.get_doc("kept")
    with blobfs.open_account(store, passphrase=PASSPHRASE) as account:
        assert read(get(account, "kept")) == b"bytes"
        assert account._desk._store.check() == []  # type: ignore[attr-defined]


def test_one_process_may_open_a_store_twice(store: Path) -> None:
    with (
        blobfs.open_account(store, passphrase=PASSPHRASE) as first,
        blobfs.open_account(store, passphrase=PASSPHRASE) as second,
    ):
        doc = second.create_doc({"n": 1})
        assert get(first, doc.doc_id).content == {"n": 1}


def test_many_that_open_at_once_all_get_in_and_one_owns(store: Path) -> None:
    code = f"""
import sys, blobfs
{PATIENT}
with blobfs.open_account({str(store)!r}, passphrase={PASSPHRASE!r}) as account:
    account.create_doc({{}}, doc_id=sys.argv[1])
    print("in", flush=True)
    sys.stdin.read()
"""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"doc-{number}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for running in programs:
            assert running.stdout is not None
            assert running.stdout.readline() == "in\n"
    finally:
        for running in programs:
            running.kill()
            running.communicate()
    with blobfs.open_account(store, passphrase=PASSPHRASE) as account:
        assert {doc.doc_id for doc in account.get_all_docs()} == {"doc-0", "doc-1", "doc-2"}


def test_who_works_on_the_store_as_a_whole_shares_it_with_nobody(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobfs.api.opening.PATIENCE_S", 0.1)
    with (
        holding(store),
        pytest.raises(StoreInUse, match="another process"),
        blobfs.open_account(store, passphrase=PASSPHRASE),
    ):
        pass

"""The API as a developer meets it: complete types, equal plain and async forms, and errors that say what they are."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import blobfs
from blobfs import errors
from tests.api.conftest import OpenDevice

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
GIVEN = "from pathlib import Path\n\nstore: Path\ninvite: str\n\n"


def test_the_examples_of_the_page_are_a_program_of_complete_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(GIVEN + "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)), encoding="utf-8")
    arguments = ("--strict", "--config-file", str(ROOT / "pyproject.toml"), str(program))
    checked = subprocess.run([sys.executable, "-m", "mypy", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def names(kind: type) -> set[str]:
    """What a class shows to programs."""
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("plain", "asynchronous", "only_plain"),
    [
        (blobfs.Account, blobfs.AsyncAccount, {"close", "is_dirty", "desk", "attaching", "create_staged"}),
        (blobfs.Document, blobfs.AsyncDocument, {"refresh"}),
        (blobfs.Blobs, blobfs.AsyncBlobs, {"check", "put_staged"}),
        (blobfs.Incoming, blobfs.AsyncIncoming, {"take", "done", "fail", "drop"}),
    ],
)
def test_every_call_has_an_async_form_of_the_same_name_and_arguments(
    plain: type, asynchronous: type, only_plain: set[str]
) -> None:
    assert names(plain) - names(asynchronous) == only_plain
    for name in sorted(names(plain) & names(asynchronous)):
        first, second = getattr(plain, name), getattr(asynchronous, name)
        if callable(first):
            assert shape(first) == shape(second), name


def shape(call: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of the arguments."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(call).parameters.values()]


def kinds() -> list[type[errors.BlobfsError]]:
    """Every class of the tree."""
    found = [each for each in vars(errors).values() if inspect.isclass(each)]
    return [each for each in found if issubclass(each, errors.BlobfsError)]


def test_the_page_names_errors_that_exist_and_each_says_whether_to_try_again() -> None:
    table = PAGE[PAGE.index("## Errors") :]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 25
    assert named <= {kind.__name__ for kind in kinds()}
    for name in re.findall(r"\b(?:raises?|errors\.) ?`?([A-Z]\w+)`?", PAGE):
        assert hasattr(errors, name), name
    assert {type(kind.retriable) for kind in kinds()} == {bool}
    assert errors.RemoteUnavailable.retriable
    assert not errors.RevisionConflict.retriable


def test_errors_can_be_sent_to_another_process() -> None:
    # Readers of attachments deal with absent bytes; a program never sees that error.
    for error in [kind("a sentence") for kind in kinds() if kind is not errors.BytesAbsent]:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_an_account_is_not_copied_and_shows_no_secret(account: blobfs.Account) -> None:
    document = account.create_doc({"secret": "content"})
    for thing in (account, document, blobfs.AsyncAccount(account), blobfs.AsyncDocument(document)):
        assert "content" not in repr(thing)
        assert str(account.recovery_words) not in repr(thing)
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    with pytest.raises(TypeError):
        copy.deepcopy(account)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_async_account_ends_with_its_block_also_when_that_is_cancelled(device: OpenDevice, backend: str) -> None:
    plain = device()
    listening = plain.changes()

    async def use() -> None:
        with anyio.CancelScope() as scope:
            async with blobfs.AsyncAccount(plain) as account:
                await account.create_doc({}, "kept")
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(use, backend=backend)
    with pytest.raises(errors.UsageError, match="closed"):
        plain.get_doc("kept")
    assert list(listening) == ["kept"]

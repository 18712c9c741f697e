"""What people and scripts are shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from blobfs.status import (
    LiveLine,
    Pending,
    Status,
    format_bytes,
    format_pending,
    format_status,
    from_json,
    not_mounted,
    printable,
    read_pending,
    write_pending,
)

STATUS = Status(
    state="mounted",
    reason=None,
    mountpoint="/m",
    store="/s",
    pid=7,
    server="http://127.0.0.1:1",
    user="alice",
    embedded=False,
    device="left",
    pending=Pending(2, 3000),
    documents=5,
    stored_bytes=10,
    transfers=[{"what": "upload", "doc_id": "a", "total": 9, "done": 3}],
    parked=[],
    last_contact=1.5,
    version="0",
)


def test_a_status_survives_the_way_through_json() -> None:
    assert from_json(json.loads(json.dumps(STATUS.to_json()))) == STATUS


def test_a_status_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    assert from_json(STATUS.to_json() | {"later": 1}) == STATUS


def test_scripts_find_what_the_contract_names() -> None:
    body = STATUS.to_json()
    assert body["pending"] == {"documents": 2, "bytes": 3000}
    assert {"state", "pending", "server", "store", "pid", "mountpoint"} <= set(body)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 30, "3.0 GiB")]
)
def test_bytes_are_shown_with_a_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("pending", "text"),
    [
        (Pending(0, 0), "everything is on the server"),
        (Pending(1, 10), "1 document (10 B) waits for the server"),
        (Pending(2, 10), "2 documents (10 B) wait for the server"),
        (Pending(None, None), "what waits is not known while the store is locked"),
    ],
)
def test_what_waits_is_said_in_words(pending: Pending, text: str) -> None:
    assert format_pending(pending) == text


def test_nothing_from_outside_reaches_the_terminal_as_a_command() -> None:
    assert "\x1b" not in printable("a\x1b[2Jb\r\n\N{RIGHT-TO-LEFT OVERRIDE}")
    assert "\x1b" not in format_status(
        Status(**{**STATUS.to_json(), "reason": "\x1b]0;x\x07", "server": "\x1b", "pending": STATUS.pending})
    )


def test_the_note_of_what_waits_is_read_back_and_its_absence_is_not_knowing(tmp_path: Path) -> None:
    assert read_pending(tmp_path / "p") == Pending(None, None)
    write_pending(tmp_path / "p", Pending(3, 4))
    assert read_pending(tmp_path / "p") == Pending(3, 4)
    (tmp_path / "p").write_text("[]")
    assert read_pending(tmp_path / "p") == Pending(None, None)


def test_what_is_not_mounted_says_so(tmp_path: Path) -> None:
    status = not_mounted(tmp_path, None, Pending(None, None), "0")
    assert (status.state, status.pid) == ("not mounted", None)


def test_without_a_terminal_only_changes_of_state_are_told() -> None:
    stream = io.StringIO()
    live = LiveLine(stream)
    live.show(STATUS)
    live.show(Status(**{**STATUS.to_json(), "pending": Pending(9, 9)}))
    live.show(Status(**{**STATUS.to_json(), "state": "offline", "reason": "no answer", "pending": STATUS.pending}))
    live.clear()
    assert stream.getvalue() == "blobfs: mounted\nblobfs: offline: no answer\n"

"""What people and scripts are shown."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from blobfs.errors import AccessDenied, QuotaExceeded, RemoteUnavailable, Rollback, WrongServer
from blobfs.remote.refusals import ADVICE
from blobfs.status import (
    LiveLine,
    Pending,
    Status,
    format_pending,
    format_status,
    from_json,
    not_mounted,
    read_pending,
    write_pending,
)
from blobfs.sync.keyring import CHANGED
from blobfs.sync.status import DOUBTFUL, STATES, Health, SyncState
from blobfs.troubles import DOUBTFUL as DOUBTFUL_NAMES
from blobfs.troubles import TROUBLES
from blobfs.wording import format_bytes, printable

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
        Status(**{**STATUS.to_json(), "reason": "\x1b]0;x\x07", "server": "\x1b", "pending": STATUS.pending}), now_s=0
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


# --- what a person reads when something is wrong --------------------------

NOW_S = 1_800_000_000.0
SINCE = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW_S - 7300))


def told(state: str, reason: str, pending: Pending = STATUS.pending, **more: Any) -> list[str]:
    """The lines of a mount in this state for two hours, without those that are the same in every state."""
    body = STATUS.to_json() | {
        "state": state,
        "reason": reason,
        "pending": pending,
        "transfers": [],
        "since": NOW_S - 7300,
    }
    lines = format_status(
        Status(**(body | {"since": NOW_S - 7300, "last_contact": NOW_S - 90_000} | more)), now_s=NOW_S
    ).splitlines()
    return [line for line in lines if line.split()[0] not in ("server", "store", "process")]


@pytest.mark.parametrize(
    ("state", "reason", "head", "what", "why", "do"),
    [
        (
            *("offline", ADVICE[RemoteUnavailable], "2 documents (2.9 KiB) wait for the server"),
            *("the server is away; what is here can be read and changed", "the server cannot answer now"),
            "nothing, it goes on by itself when the server answers; `blobfs doctor /m` looks closer",
        ),
        (
            *("refused", ADVICE[AccessDenied], "2 documents (2.9 KiB) wait for the server"),
            "this device may not use the account any more; what is here stays, and can be read and changed",
            "the server refuses this device's token: the device was revoked, or its access expired",
            "if you revoked it yourself, nothing; else `blobfs invite DIR` on another device, then here "
            "`blobfs umount /m` and `blobfs mount /m --connect INVITE`",
        ),
        (
            *("over-quota", ADVICE[QuotaExceeded], "2 documents (2.9 KiB) wait for the server"),
            "the server has no room; what is written here stays here, and what other devices write still comes",
            "the account on the server is full",
            "delete what is not needed, which makes room after the server's retention time, or ask its operator for "
            "more; of an embedded server it is this machine's disk that needs room",
        ),
        (
            *("keys-changed", CHANGED, "2 documents (2.9 KiB) wait for the server"),
            "passphrase and keys were changed on another device; what is written here is sent after the next mount",
            "the account's keys were changed on another device",
            "`blobfs umount /m`, then `blobfs mount /m` with the new passphrase",
        ),
        (
            *("wrong-server", ADVICE[WrongServer], "2 documents (2.9 KiB) wait for the server"),
            "somebody answers who does not have the server's key; nothing was sent",
            "the server does not have the key that this device's invite names: it was set up anew, or somebody else "
            "answers in its place",
            "ask the server's operator; if the key is new, `blobfs umount /m`, then "
            "`blobfs mount /m --connect INVITE --pin PIN`",
        ),
    ],
)
def test_a_trouble_is_told_with_its_cause_since_when_and_what_to_do(
    state: str, reason: str, head: str, what: str, why: str, do: str
) -> None:
    assert told(state, reason) == [
        f"/m: {state} · {head}",
        f"  what    {what}",
        f"  why     {why}",
        f"  since   {SINCE}, 2 hours ago; the last good answer was 1 day ago",
        f"  do      {do}",
    ]


@pytest.mark.parametrize(
    ("state", "what", "do"),
    [
        (
            "rolled-back",
            "the server has forgotten what it had; what it lost is still here, so nothing is evicted meanwhile",
            "ask its operator; if a backup was restored, `blobfs recover /m` sends again what was lost. Until then "
            "evict nothing",
        ),
        (
            "wrong-account",
            "at this address there is another account now; nothing was sent to it, nothing taken from it",
            "ask the server's operator whether it was set up anew; with an invite of the right account: "
            "`blobfs umount /m`, then `blobfs mount /m --connect INVITE`; keep this store, it has your files",
        ),
    ],
)
def test_where_the_server_is_in_doubt_nobody_is_told_that_everything_is_there(state: str, what: str, do: str) -> None:
    assert told(state, "a reason; advice", Pending(0, 0), last_contact=NOW_S - 7310) == [
        f"/m: {state} · what the server has is not known",
        f"  what    {what}",
        "  why     a reason",
        f"  since   {SINCE}, 2 hours ago",
        f"  do      {do}",
    ]


def test_what_is_put_aside_has_its_name_its_reason_and_its_time() -> None:
    entries = [
        {"doc_id": f"d{number}", "path": f"letters/{number}", "reason": "too large", "since": NOW_S - 7300}
        for number in range(12)
    ]
    lines = told("mounted", "", parked=[{"doc_id": "", "path": None, "reason": "a doubt", "since": 0}, *entries])
    assert lines[1:3] == ["  aside   a doubt", f"  aside   letters/0: too large (since {SINCE}, 2 hours ago)"]
    assert lines[-1] == "  aside   and 3 more; `blobfs status --json` tells of them"
    assert len(lines) == 12


def test_every_state_that_is_not_well_has_its_words() -> None:
    assert TROUBLES.keys() == {state.value for state in SyncState} - {"connected"}
    assert {state.value for state in DOUBTFUL} == DOUBTFUL_NAMES
    assert set(STATES.values()) <= {SyncState(name) for name in TROUBLES}


def test_a_state_tells_since_when_and_a_doubt_outlives_other_troubles() -> None:
    now_s = [10.0]
    health = Health(clock=lambda: now_s[0])
    assert health.since_s is None
    for moment_s, error, since_s in ((20.0, RemoteUnavailable("a"), 20.0), (30.0, RemoteUnavailable("b"), 20.0)):
        now_s[0] = moment_s
        health.fail("feed", error)
        assert (health.since_s, health.is_doubtful) == (since_s, False)
    now_s[0] = 40.0
    health.fail("feed", Rollback("c"))
    health.paused = True
    assert (health.since_s, health.is_doubtful) == (40.0, True)
    health.succeed("feed")
    assert not health.is_doubtful


def test_names_that_come_are_counted() -> None:
    assert told("mounted", "", reading={"done": 1200, "total": 4000})[0].endswith("reading names, 1,200 of 4,000")
    assert told("mounted", "", reading={"done": 1200, "total": None})[0].endswith("reading names, 1,200")

"""The secrets file: it opens with what it was made for, and hostile files meet one of three errors.

The passphrase hash takes 64 MiB, so nearly all of these use the recovery slot, which is sealed in the same way.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.errors import StoreDamaged, StoreTooNew, UsageError, WrongPassphrase
from blobfs.values import keys
from blobfs.values.documents import dump, load
from blobfs.values.keys import CEILING, FLOOR, Argon2Cost
from tests.values.strategies import KEYS

ACCOUNT, SECRET = keys.new_account()
RECOVERY = bytes(range(32))
PASSPHRASE = keys.passphrase_bytes("a long passphrase")
FILE = dump(keys.wrap(ACCOUNT, SECRET, PASSPHRASE, RECOVERY, keys.FLOOR))
REFUSALS = (StoreDamaged, StoreTooNew, WrongPassphrase)


def slots(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {slot["kind"]: slot for slot in body["slots"]}


def test_either_way_to_unlock_gives_the_secret_and_a_wrong_one_gives_nothing() -> None:
    assert keys.unwrap(load(FILE), passphrase=PASSPHRASE) == (ACCOUNT, SECRET)
    assert keys.unwrap(load(FILE), recovery=RECOVERY) == (ACCOUNT, SECRET)
    with pytest.raises(WrongPassphrase):
        keys.unwrap(load(FILE), passphrase=PASSPHRASE + b" ")


@pytest.mark.parametrize("recovery", [b"", bytes(32), RECOVERY[:31], RECOVERY + b"\0", None])
def test_another_recovery_key_opens_nothing(recovery: bytes | None) -> None:
    with pytest.raises(WrongPassphrase):
        keys.unwrap(load(FILE), recovery=recovery)


def test_a_file_shows_neither_the_secret_nor_the_ways_to_it() -> None:
    for hidden in (SECRET, RECOVERY, PASSPHRASE):
        for form in (hidden, hidden.hex().encode(), base64.b64encode(hidden)):
            assert form not in FILE


def test_a_new_passphrase_replaces_the_old_one_and_leaves_the_recovery_words() -> None:
    other = keys.passphrase_bytes("another passphrase")
    body = load(dump(keys.replace_passphrase(load(FILE), SECRET, other, keys.FLOOR)))
    assert keys.unwrap(body, passphrase=other) == (ACCOUNT, SECRET)
    with pytest.raises(WrongPassphrase):
        keys.unwrap(body, passphrase=PASSPHRASE)
    assert slots(body)["recovery"] == slots(load(FILE))["recovery"]
    with pytest.raises(StoreDamaged):
        keys.replace_passphrase({"version": 1}, SECRET, other, keys.FLOOR)


def test_a_file_may_carry_one_slot_only() -> None:
    body = load(FILE)
    body["slots"] = [slots(body)["recovery"]]
    assert keys.unwrap(body, recovery=RECOVERY) == (ACCOUNT, SECRET)
    with pytest.raises(WrongPassphrase, match="recovery words alone"):
        keys.unwrap(body, passphrase=PASSPHRASE)
    assert keys.without_passphrase(load(FILE)) == body
    assert (keys.has_passphrase(load(FILE)), keys.has_passphrase(body)) == (True, False)


# --- the strength of the passphrase hash ----------------------------------------------------------------------

WEAK_OR_HUGE = [
    Argon2Cost(FLOOR.memory_kib - 1, FLOOR.iterations, FLOOR.lanes),
    Argon2Cost(FLOOR.memory_kib, FLOOR.iterations - 1, FLOOR.lanes),
    Argon2Cost(FLOOR.memory_kib, FLOOR.iterations, 0),
    Argon2Cost(CEILING.memory_kib + 1, FLOOR.iterations, FLOOR.lanes),
    Argon2Cost(FLOOR.memory_kib, CEILING.iterations + 1, FLOOR.lanes),
    Argon2Cost(FLOOR.memory_kib, FLOOR.iterations, CEILING.lanes + 1),
    Argon2Cost(1 << 4_000, 1 << 70, -1),
]


@pytest.mark.parametrize("cost", WEAK_OR_HUGE, ids=lambda cost: f"{cost.iterations % 99}-{cost.lanes}")
def test_a_hash_below_the_floor_or_over_the_ceiling_is_neither_read_nor_written(cost: Argon2Cost) -> None:
    body = load(FILE)
    slots(body)["passphrase"].update(memory_kib=cost.memory_kib, iterations=cost.iterations, lanes=cost.lanes)
    with pytest.raises(StoreDamaged, match="allowed strength"):
        keys.unwrap(body, passphrase=PASSPHRASE)
    with pytest.raises(StoreDamaged, match="allowed strength"):
        keys.wrap(ACCOUNT, SECRET, PASSPHRASE, RECOVERY, cost)


@pytest.mark.parametrize("value", ["65536", 65536.0, True, None, [65536], float("inf")])
def test_a_cost_of_another_type_is_refused(value: Any) -> None:
    body = load(FILE)
    slots(body)["passphrase"]["memory_kib"] = value
    with pytest.raises(StoreDamaged):
        keys.unwrap(body, passphrase=PASSPHRASE)


# --- changed files --------------------------------------------------------------------------------------------

JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, -1, 1 << 5_000, 1.5, True, "", "AAAA", "passphrase", [], {}, [[]], "\ud800", "\n"]
)
MEMBERS = [(kind, member) for kind, slot in slots(load(FILE)).items() for member in slot]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([place for place in MEMBERS if place[0] == "recovery"]), JUNK, st.booleans())
def test_no_member_of_a_slot_can_be_changed(place: tuple[str, str], value: Any, remove: bool) -> None:
    body, (kind, member) = load(FILE), place
    slot = slots(body)[kind]
    if remove:
        del slot[member]
    else:
        slot[member] = value
    with pytest.raises(REFUSALS):
        keys.unwrap(body, recovery=RECOVERY)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["version", "account", "slots", "surplus"]), JUNK)
def test_no_member_of_the_file_can_be_changed(member: str, value: Any) -> None:
    with pytest.raises(REFUSALS):
        keys.unwrap(load(FILE) | {member: value}, recovery=RECOVERY)


@settings(deadline=None, max_examples=150)
@given(JUNK | st.dictionaries(st.sampled_from(["version", "account", "slots"]), JUNK | st.just(1)))
def test_what_is_no_secrets_file_is_refused(body: Any) -> None:
    with pytest.raises(REFUSALS):
        keys.unwrap(body, recovery=RECOVERY)


@pytest.mark.parametrize("member", ["salt", "nonce", "commitment", "wrapped"])
def test_each_flipped_bit_of_a_slot_is_found(member: str) -> None:
    value = base64.b64decode(slots(load(FILE))["recovery"][member])
    for bit in range(8 * len(value)):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        body = load(FILE)
        slots(body)["recovery"][member] = base64.b64encode(changed).decode("ascii")
        with pytest.raises(WrongPassphrase):
            keys.unwrap(body, recovery=RECOVERY)


@pytest.mark.parametrize(
    "change", [{"comment": "room for a forger"}, {"salt": "A" * 21 + "B=="}], ids=["member", "bits"]
)
def test_a_slot_has_one_form_only(change: dict[str, str]) -> None:
    body = load(FILE)
    slots(body)["recovery"].update(change)
    with pytest.raises(StoreDamaged, match="damaged"):
        keys.unwrap(body, recovery=RECOVERY)


def test_a_slot_of_another_account_does_not_open_here() -> None:
    body = load(FILE) | {"account": "ab" * 16}
    with pytest.raises(WrongPassphrase):
        keys.unwrap(body, recovery=RECOVERY)


@pytest.mark.parametrize("account", ["AB" * 16, "ab" * 15, " " * 16 + "ab" * 16, "ab" * 16 + "\n", "zz" * 16])
def test_an_account_id_of_another_form_is_refused(account: str) -> None:
    with pytest.raises(StoreDamaged):
        keys.unwrap(load(FILE) | {"account": account}, recovery=RECOVERY)


@pytest.mark.parametrize("copies", [2, 100_000])
def test_two_slots_of_one_kind_are_refused(copies: int) -> None:
    body = load(FILE)
    body["slots"] = [slots(body)["recovery"]] * copies
    with pytest.raises(StoreDamaged):
        keys.unwrap(body, recovery=RECOVERY)


def test_a_slot_that_does_not_commit_to_its_key_is_refused_although_it_would_decrypt() -> None:
    body = load(FILE)
    slot = slots(body)["recovery"]
    slot["commitment"] = base64.b64encode(bytes(32)).decode("ascii")
    clear = {name: value for name, value in slot.items() if name != "wrapped"}
    header = json.dumps({"account": ACCOUNT, "slot": clear, "version": 1}, sort_keys=True, separators=(",", ":"))
    slot_key = keys.derive(RECOVERY, "recovery", base64.b64decode(slot["salt"]))
    nonce = base64.b64decode(slot["nonce"])
    forged = AESGCM(keys.derive(slot_key, "slot")).encrypt(nonce, bytes(32), header.encode("ascii"))
    slot["wrapped"] = base64.b64encode(forged).decode("ascii")
    with pytest.raises(WrongPassphrase):
        keys.unwrap(body, recovery=RECOVERY)


@pytest.mark.parametrize("version", [0, 3, -1])
def test_another_version_is_named_as_such(version: int) -> None:
    with pytest.raises(StoreTooNew, match="another version"):
        keys.unwrap(load(FILE) | {"version": version}, recovery=RECOVERY)


# --- keys and passphrases --------------------------------------------------------------------------------------


def test_all_keys_of_an_account_differ() -> None:
    values = [getattr(KEYS, name) for name in keys.Keys.__slots__ if name not in ("account", "epoch", "older")]
    assert len(set(values)) == len(values) == 8
    assert {len(value) for value in values} == {32}


def test_labels_and_contexts_do_not_run_into_each_other() -> None:
    key = bytes(32)
    assert len({keys.derive(key, "a", b"b"), keys.derive(key, "ab"), keys.derive(key, "a"), keys.derive(key, "")}) == 4


def test_keys_show_themselves_to_nobody_who_prints_them() -> None:
    assert repr(KEYS) == str(KEYS) == f"Keys(account={KEYS.account!r})"


def test_a_passphrase_is_the_same_from_every_keyboard() -> None:
    assert keys.passphrase_bytes("cafe\u0301") == keys.passphrase_bytes("caf\u00e9") == "café".encode()


@pytest.mark.parametrize("text", ["", "\udcff"])
def test_a_passphrase_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="passphrase"):
        keys.passphrase_bytes(text)

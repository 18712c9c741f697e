"""The recovery key on paper: it comes back, and a slip of the pen is named without repeating the word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.errors import UsageError, WrongPassphrase
from blobfs.values.words import recovery_key, recovery_words

WORDS = recovery_words(bytes(range(32)))


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=32, max_size=32))
def test_every_key_comes_back_from_its_words(key: bytes) -> None:
    words = recovery_words(key)
    assert len(words.split(" ")) == 24
    assert recovery_key(words) == key


def test_case_and_white_space_do_not_matter() -> None:
    assert recovery_key("\n " + WORDS.upper().replace(" ", "\t\n") + " ") == bytes(range(32))


def test_an_unknown_word_is_told_by_its_place_only() -> None:
    typed = WORDS.split()
    typed[6] = typed[11] = "abandom\x1b"
    with pytest.raises(UsageError, match=r"word 7, 12; check") as caught:
        recovery_key(" ".join(typed))
    assert "abandom" not in str(caught.value)


def test_a_known_but_wrong_word_fails_the_checksum() -> None:
    typed = WORDS.split()
    typed[3] = "zoo"
    with pytest.raises(WrongPassphrase, match="checksum"):
        recovery_key(" ".join(typed))


@pytest.mark.parametrize("words", ["", "abandon", " ".join(WORDS.split()[:23]), WORDS + " abandon", WORDS * 1_000])
def test_another_number_of_words_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="24 recovery words are needed"):
        recovery_key(words)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS.split()), min_size=24, max_size=24).map(" ".join))
def test_whatever_is_typed_gives_a_key_or_a_sentence(typed: str) -> None:
    try:
        key = recovery_key(typed)
    except (UsageError, WrongPassphrase):
        return
    assert recovery_words(key) == " ".join(typed.lower().split())


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_has_no_words(size: int) -> None:
    with pytest.raises(UsageError):
        recovery_words(bytes(size))


def test_the_list_of_words_is_read_only_when_it_is_needed() -> None:
    code = "import sys, blobfs.values.words; sys.exit('mnemonic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)

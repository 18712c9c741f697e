"""The recovery key as 24 words on paper: BIP 39, English list. docs/FORMAT.md, "Recovery words".

Words go in and out; errors name a word by its place and never repeat it, since a mistyped word is nearly the secret.
"""

from __future__ import annotations

from typing import Final

from blobfs.errors import UsageError, WrongPassphrase

COUNT: Final = 24
"""Words: 256 bits of key and 8 of checksum, 11 bits a word."""
KEY: Final = 32
"""Bytes of the recovery key."""


def recovery_words(key: bytes) -> str:
    """The 24 words of a recovery key of 32 bytes, lower case, one space apart.

    Raises:
        UsageError: a key of another length.
    """
    if len(key) != KEY:
        raise UsageError(f"a recovery key has {KEY} bytes, not {len(key)}; use the one that the account was made with")
    from mnemonic import Mnemonic  # reads a list of words, which most starts of the program do not need

    words: str = Mnemonic("english").to_mnemonic(key)
    return words


def recovery_key(words: str) -> bytes:
    """The recovery key (32 bytes) of 24 words; their case and the white space between them do not matter.

    Raises:
        UsageError: not 24 words, or one that is not in the list; the message tells which by its place.
        WrongPassphrase: all words are known, but their checksum fails: a wrong word or a wrong order.
    """
    from mnemonic import Mnemonic

    reader, typed = Mnemonic("english"), words.lower().split()
    if len(typed) != COUNT:
        raise UsageError(f"{COUNT} recovery words are needed and {len(typed)} were given; type all of them, in order")
    known = frozenset(reader.wordlist)
    unknown = [str(place) for place, word in enumerate(typed, 1) if word not in known]
    if unknown:
        raise UsageError(f"not in the list of recovery words: word {', '.join(unknown)}; check the spelling")
    try:
        return bytes(reader.to_entropy(typed))
    except ValueError:
        raise WrongPassphrase(
            "the checksum of the recovery words fails; check each word and their order against the paper"
        ) from None

"""The recovery words on a terminal: shown once, and three of them asked back, so that what was written down is right.

Knows nothing of what they open. Invariant: nobody is asked who is not at a terminal, or who said `skip`.
"""

from __future__ import annotations

import secrets
import sys
from typing import Final

from blobfs.asking import ask
from blobfs.unlock import has_terminal

ASKED: Final = 3
SKIP: Final = "skip"
"""No word of the list."""
_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"
"""Of the screen and of what was scrolled off it."""


def show_words(words: str, *, check: bool) -> None:
    """Print the words; on a terminal, with `check`, return when some were typed back right, or it was skipped."""
    listed = words.split()
    _print(listed)
    if not (check and has_terminal() and sys.stdout.isatty()):
        return
    try:
        while not _check(listed):
            print("Look once more.\n")
            _print(listed)
    except EOFError:
        print()
    except KeyboardInterrupt:
        # The account has its keys by now, old or new: whoever believed otherwise would look for other words.
        print(
            "\nStopped here; what was made is complete, and the words that were shown are valid: mount to go on.",
            end="",
        )
        raise


def _check(words: list[str]) -> bool:
    """Whether the words were typed back right, or a person wants no check."""
    print(f"Press Enter when they are written down: the screen is cleared, and {ASKED} of them are asked for.")
    if ask(f"`{SKIP}` goes on without. ").strip().lower() == SKIP:
        return True
    print(_CLEAR, end="", flush=True)
    for place in sorted(secrets.SystemRandom().sample(range(len(words)), ASKED)):
        typed = ask(f"Word {place + 1}: ").strip().lower()
        if typed == SKIP:
            return True
        if typed != words[place]:
            print(f"That is not word {place + 1}. ", end="")
            return False
    print("The words are right.")
    return True


def _print(words: list[str]) -> None:
    print(
        "\nRecovery words. Write them down and keep them apart from this machine: with the words, or with the\n"
        "passphrase, the account can be opened; without both, nobody can.\n"
    )
    numbered = [f"{place:2}. {word:<8}" for place, word in enumerate(words, 1)]
    for first in range(0, len(numbered), 6):
        print("   " + "  ".join(numbered[first : first + 6]).rstrip())
    print()

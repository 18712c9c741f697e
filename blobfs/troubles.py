"""What a state of sync means to a person, and what to do about it: words only, by the state's name.

Asks nobody. Invariant: every state that is not well has its words here, and each tells commands that can be typed as
they stand, but for INVITE, PIN and NEW.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Trouble(NamedTuple):
    """A state that is not well."""

    what: str
    """What it means, in some words."""
    do: str
    """What to do; `{dir}` stands for the mount point."""


TROUBLES: Final = {
    "starting": Trouble("the server has not been asked yet", "nothing: it takes a moment"),
    "offline": Trouble(
        "the server is away; what is here can be read and changed",
        "nothing, it goes on by itself when the server answers; `blobfs doctor {dir}` looks closer",
    ),
    "paused": Trouble("nothing is sent and nothing is taken", "`blobfs config {dir} paused off` goes on"),
    "refused": Trouble(
        "this device may not use the account any more; what is here stays, and can be read and changed",
        "if you revoked it yourself, nothing; else `blobfs invite DIR` on another device, then here `blobfs umount "
        "{dir}` and `blobfs mount {dir} --connect INVITE`",
    ),
    "over-quota": Trouble(
        "the account is full; what is written here stays here, and what other devices write still comes",
        "delete what is not needed, which makes room after the server's retention time, or ask its operator for more",
    ),
    "wrong-account": Trouble(
        "at this address there is another account now; nothing was sent to it, nothing taken from it",
        "ask the server's operator whether it was set up anew; with an invite of the right account: "
        "`blobfs umount {dir}`, then `blobfs mount {dir} --connect INVITE`; keep this store, it has your files",
    ),
    "wrong-server": Trouble(
        "somebody answers who does not have the server's key; nothing was sent",
        "ask the server's operator; if the key is new, `blobfs umount {dir}`, then "
        "`blobfs mount {dir} --connect INVITE --pin PIN`",
    ),
    "keys-changed": Trouble(
        "passphrase and keys were changed on another device; what is written here is sent after the next mount",
        "`blobfs umount {dir}`, then `blobfs mount {dir}` with the new passphrase",
    ),
    "rolled-back": Trouble(
        "the server has forgotten what it had; what it lost is still here, so nothing is evicted meanwhile",
        "ask its operator; if a backup was restored, `blobfs recover {dir}` sends again what was lost. Until then "
        "evict nothing",
    ),
    "incompatible": Trouble(
        "what answers at this address is no blobfs server, or one of another time",
        "check the address above in a browser, and update the older side",
    ),
}

DOUBTFUL: Final = frozenset(("wrong-account", "wrong-server", "rolled-back"))
"""Names of states in which nothing is known of what the server has."""

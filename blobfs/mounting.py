"""What `mount` and `passwd` do, between the command line and the rooms that do the work.

Owns the order of a start: cheap checks, then the first run or the unlocking, while a person is there to be asked; only
then the daemon, here or in a process of its own. Invariant: nothing is asked, made or mounted before all that can be
checked without it has been.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blobfs import background, healing, mountpoint
from blobfs.asking import ask_hidden
from blobfs.calibration import calibrate
from blobfs.config import LOG, Config, Mount, Source, is_new
from blobfs.control import ask
from blobfs.errors import BlobfsError, NotMounted, StoreInUse, UsageError, WrongPassphrase
from blobfs.keyring import KeyringEntry
from blobfs.outside import farewell, look
from blobfs.process import (
    answer_promptly,
    harden,
    let_go_of_terminal,
    log_to,
    settle_memory,
    spoken_command,
    tell_manager,
)
from blobfs.status import LiveLine, Status
from blobfs.unlock import (
    Unlocked,
    change_passphrase,
    choose_passphrase,
    has_terminal,
    new_passphrase,
    opens_with,
    read_source,
    unlock,
)
from blobfs.values.documents import Json
from blobfs.values.epochs import claimed_epoch
from blobfs.values.keys import Argon2Cost, Keys
from blobfs.wordcheck import show_words
from blobfs.wording import counted

if TYPE_CHECKING:
    from blobfs.firstrun import Made

Announce = Callable[[Status], None]

# --- mount --------------------------------------------------------------------------------------------------------


def mount(config: Config) -> int:
    """Mount, in this process until it ends or, with `background`, in another one until it is ready; the exit code."""
    harden()
    if config.handover is not None:
        return _run_handed_over(config, config.handover)
    if config.heal is not None:
        return healing.heal(config, _mount_in_background)
    if config.background:
        return _mount_in_background(config, healing.Past.now())
    unlocked = _prepare(config)
    log_to(config.store / LOG)
    live = LiveLine(sys.stdout)

    def announce(status: Status) -> None:
        live.say(_welcome(status, config))
        tell_manager("READY=1")

    return _run(config, unlocked, announce, live)


def _mount_in_background(config: Config, past: healing.Past) -> int:
    return background.start(config, _prepare(config), past)


def _prepare(config: Config) -> Unlocked:
    """What can fail for a reason that a person can mend, in the order of what it costs."""
    mountpoint.check_fuse()
    _check_free(config)
    mountpoint.check(config.mountpoint)
    return _unlock_by_keyring(config) if config.keyring else _unlock(config)


def _check_free(config: Config) -> None:
    """Say so when it is mounted already: there is no need for a passphrase to find that out."""
    status = look(Mount(config.mountpoint, config.store))
    if status.pid is not None:
        raise StoreInUse(
            f"this store is mounted already, at {status.mountpoint} by process {status.pid}; "
            f"unmount it with `blobfs umount {status.mountpoint}`"
        )


def _unlock(config: Config) -> Unlocked:
    # What speaks with a server is imported only when one is to be asked: a mount is ready the sooner.
    if not is_new(config.store):
        unlocked = unlock(config.store, config.passphrase, config.recovery, partial(_fetch_newer, config))
        if unlocked.older:
            _renew(config.store, unlocked.keys())
        if config.connect is not None:
            from blobfs.firstrun import reconnect

            reconnect(config, unlocked)
        return unlocked
    if config.recovery and config.connect is None:
        raise UsageError("recovery words open an account that exists; give --connect INVITE too, or leave them out")
    from blobfs import firstrun

    made = firstrun.make(config)
    _print_made(config, made)
    return made.unlocked


def _renew(store: Path, keys: Keys) -> None:
    """Finish a change of keys, but of databases that a newer version made: their opening says what to do."""
    from blobfs import rotation
    from blobfs.store import upgrade

    if upgrade.newer(store, keys) is None:
        rotation.renew(store, keys)


def _unlock_by_keyring(config: Config) -> Unlocked:
    """`_unlock` with the passphrase that the keyring has; else with one given or typed, which it keeps then."""
    entry = KeyringEntry(config.store)
    known = None if config.passphrase or config.recovery else entry.read()
    if known is not None:
        try:
            return _unlock(replace(config, passphrase=Source(text=known)))
        except WrongPassphrase:
            raise WrongPassphrase(
                "the passphrase in the keyring does not open this store; remove it with `blobfs lock --forget`"
            ) from None
    if config.recovery:
        return _unlock(config)
    if config.passphrase:
        text = read_source(config.passphrase, "passphrase")
    elif not has_terminal():
        raise UsageError("the keyring has no passphrase of this store; mount once with --keyring on a terminal")
    elif is_new(config.store) and config.connect is None:
        text = choose_passphrase().decode()
    else:
        text = ask_hidden("Passphrase: ")
    unlocked = _unlock(replace(config, passphrase=Source(text=text)))
    entry.write(text)
    return unlocked


def forget(mounts: Iterable[Mount]) -> None:
    """Remove the passphrases of these mounts' stores from the keyring."""
    count = sum(KeyringEntry(mount.store).forget() for mount in mounts)
    print(f"The keyring has forgotten {counted(count, 'passphrase')}.")


def _fetch_newer(config: Config) -> Json | None:
    """The secrets file that the server of an invite has: the store's own server is known to whoever opens it."""
    if config.connect is None:
        return None
    import trio

    from blobfs.account import fetch_secrets
    from blobfs.firstrun import read_invite

    remote = read_invite(config.connect)
    try:
        body = trio.run(fetch_secrets, remote)
        return body if body is not None and claimed_epoch(body) else None
    except BlobfsError:
        return None


def _print_made(config: Config, made: Made) -> None:
    print(f"New store in {config.store}.")
    if made.words is not None:
        show_words(made.words, check=config.words_check)
    if made.kept is not None:
        print(
            f"The passphrase is a random one, kept in {made.kept}; set your own with "
            f"`{spoken_command()} passwd --store {config.store}` while it is not mounted."
        )
    sys.stdout.flush()


def _run(config: Config, unlocked: Unlocked, announce: Announce, live: LiveLine | None) -> int:
    from blobfs import daemon

    settle_memory()
    answer_promptly()

    try:
        pending = daemon.run(config, unlocked.keys(), announce, live)
    finally:
        if live is not None:
            live.clear()
    if live is not None:
        live.say(f"Unmounted {config.mountpoint}: {farewell(pending)}.")
    return 0


def _welcome(status: Status, config: Config) -> str:
    where = "embedded, this machine only" if status.embedded else f"account {status.user}"
    command, here = spoken_command(), status.mountpoint
    end = "" if config.background or config.handover is not None else "Ctrl-C or "
    advice = (
        (f"{command} status {here}", "what waits for the server, and why"),
        (f"{command} sync {here} --wait", "return when the server has everything"),
        (f"{command} invite {here}", "the text with which another device joins"),
        (f"{end}{command} umount {here}", "end it; nothing is lost"),
    )
    width = max(len(line) for line, _ in advice)
    return "\n".join(
        (
            f"Mounted {here}; server {status.server} ({where}). Use it like any folder; then try:",
            *(f"  {line:{width}}   {meaning}" for line, meaning in advice),
            *(["  It is read-only: nothing in it can be changed here."] if config.read_only else []),
            *(["  Other users of this machine may enter, as far as modes allow."] if config.allow_other else []),
        )
    )


def _run_handed_over(config: Config, descriptor: int) -> int:
    """In the process that a watch started."""
    parent, unlocked = background.receive(descriptor)
    with parent:
        log_to(config.store / LOG)

        def announce(status: Status) -> None:
            with contextlib.suppress(OSError):
                print(_welcome(status, config), flush=True)
            let_go_of_terminal()
            os.setsid()
            with contextlib.suppress(OSError):
                parent.sendall(background.READY)

        return _run(config, unlocked, announce, None)


# --- passwd -----------------------------------------------------------------------------------------------------------


def passwd(
    store: Path,
    *,
    passphrase: Source,
    recovery: Source,
    new: Source,
    guess_s: float,
    keyring: bool,
    keep_keys: bool,
    words_check: bool,
) -> int:
    """Change the passphrase of `store`, and its keys; with `keep_keys`, mounted or not, the passphrase alone.

    Raises:
        StoreInUse: it is mounted, so its databases cannot get new keys.
    """
    harden()
    if not keep_keys and _is_served(store):
        raise StoreInUse(
            "the keys change only while the store is not mounted; unmount it first, or change the passphrase alone "
            "with --keep-keys"
        )
    entry = KeyringEntry(store) if keyring else None
    if entry is not None and not passphrase and not recovery:
        passphrase = Source(text=entry.read())
    unlocked = unlock(store, passphrase, recovery)
    fresh, drawn = new_passphrase(new)
    if drawn is not None:
        raise UsageError("there is no terminal to ask for the new passphrase on; give --new-passphrase-file or -fd")
    cost = calibrate(guess_s)
    if keep_keys:
        _change_passphrase_alone(store, unlocked, fresh, cost)
    else:
        _begin_epoch(store, unlocked, fresh, cost, words_check=words_check)
    if entry is not None:
        entry.write(fresh.decode())
    return 0


def _is_served(store: Path) -> bool:
    try:
        ask(store, "status")
    except NotMounted:
        return False
    return True


def _change_passphrase_alone(store: Path, unlocked: Unlocked, fresh: bytes, cost: Argon2Cost) -> None:
    change_passphrase(store, unlocked, fresh, cost)
    with contextlib.suppress(NotMounted):
        # Unmounted, the next mount sends it.
        ask(store, "publish")
    print(
        "The passphrase is changed; keys and recovery words stay as they are, so an old copy of the secrets file "
        "still opens everything with the old passphrase. Other devices keep the old passphrase until it is changed "
        "there; a new device needs the new one."
    )


def _begin_epoch(store: Path, unlocked: Unlocked, fresh: bytes, cost: Argon2Cost, *, words_check: bool) -> None:
    from blobfs import rotation

    if opens_with(store, fresh):
        raise UsageError("the new passphrase is the one that opens the store now; choose another one")
    rotation.begin_epoch(store, unlocked, fresh, partial(show_words, check=words_check), cost)
    print(
        "The passphrase and the keys are changed. The old passphrase and the old recovery words open nothing that is "
        "written from now on: keep the new words in their place. Other devices sync again once they are unmounted "
        "and mounted with the new passphrase."
    )

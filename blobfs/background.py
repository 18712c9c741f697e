"""A mount in a process of its own: how it is started, watched and given its keys.

Between whoever mounts and the process that serves the mount stands a shell of one megabyte, which waits. It has no
secret, and starts `healing` when that process dies. Invariant: the keys pass over a socket that only the two ends
read, never over an argument, the environment or a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from typing import IO, Final

from blobfs.config import Config
from blobfs.errors import UsageError
from blobfs.fs.mountpoint import is_automount
from blobfs.healing import Past
from blobfs.process import module_command, module_environment
from blobfs.unlock import Unlocked
from blobfs.values.keys import AccountId

READY: Final = b"ready\n"
_HANDOVER: Final = 16 << 10
"""Bytes of the line that hands the secrets of all epochs over."""
_SHELL: Final = "/bin/sh"
_WATCH: Final = """\
socket=$1 past=$2
shift 2
"$@" --handover "$socket" </dev/null &
exec >/dev/null 2>&1
wait "$!"
code=$?
[ "$code" -eq 1 ] || [ "$code" -gt 128 ] || exit "$code"
exec "$@" --heal "$past,$code"
"""
"""Start the process and wait; when it died, become what heals: by a signal, or by a fault of our own. An end in order
and a refusal are not for healing. A signal to the shell ends the watch, and nothing else."""


def start(config: Config, unlocked: Unlocked, past: Past) -> int:
    """Start a watched process that mounts, and wait until it is ready or has failed; its exit code.

    A new interpreter, not a fork: no thread, no loop and no lock of ours is copied half-way. It gets the keys over a
    socket, and tells its failure itself on the terminal that it still has.
    """
    ours, theirs = socket.socketpair()
    # The kernel lets nobody into an automount that waits but the process group that it waits for.
    is_alone = not is_automount(config.mountpoint)
    with ours:
        with theirs:
            child = subprocess.Popen(  # noqa: S603 - our own program and our own arguments
                [_SHELL, "-c", _WATCH, "blobfs-watch", str(theirs.fileno()), str(past), *_command(config)],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=module_environment(),
                start_new_session=is_alone,
                pass_fds=(theirs.fileno(),),
            )
        try:
            with contextlib.suppress(BrokenPipeError):
                ours.sendall(_pack(unlocked))
            if ours.recv(len(READY)) == READY:
                # It lives on by itself, so there is nothing to wait for.
                child.returncode = 0
                return 0
            return child.wait()
        except KeyboardInterrupt:
            _end(child, is_alone=is_alone)
            # Both have the other end: it closes when the last of them has ended.
            with contextlib.suppress(ConnectionError):
                while ours.recv(len(READY)):
                    pass
            child.wait()
            raise


def _command(config: Config) -> list[str]:
    """What both the process that serves and the one that heals are told."""
    words = [os.fspath(config.mountpoint), "--store", os.fspath(config.store)]
    if config.allow_other:
        words.append("--allow-other")
    if config.read_only:
        words.append("--read-only")
    if config.lock_after is not None:
        words += ["--lock-after", config.lock_after]
    if config.is_healing:
        words.append("--healing")
    if config.keyring:
        words.append("--keyring")
    if config.passphrase.file is not None:
        words += ["--passphrase-file", os.path.abspath(config.passphrase.file)]
    if config.recovery.file is not None:
        words += ["--recovery-file", os.path.abspath(config.recovery.file)]
    return module_command("blobfs.cli", "mount", *words)


def _end(child: subprocess.Popen[bytes], *, is_alone: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if is_alone:
            os.killpg(child.pid, signal.SIGTERM)
        else:
            child.send_signal(signal.SIGTERM)


def _pack(unlocked: Unlocked) -> bytes:
    """A line with all secrets, at most `_HANDOVER` bytes."""
    older = [secret.hex() for secret in unlocked.older]
    return json.dumps({"account": unlocked.account, "secret": unlocked.secret.hex(), "older": older}).encode() + b"\n"


def receive(descriptor: int) -> tuple[socket.socket, Unlocked]:
    """The other end of what `start` made, on which to say `READY`, and the keys that came over it.

    Raises:
        UsageError: `descriptor` is none of it.
    """
    try:
        parent = socket.socket(fileno=descriptor)
    except OSError:
        raise UsageError("--handover is for blobfs itself; use --background") from None
    with parent.makefile("rb") as stream:
        return parent, _unpack(stream)


def _unpack(stream: IO[bytes]) -> Unlocked:
    body = json.loads(stream.readline(_HANDOVER))
    older = tuple(map(bytes.fromhex, body["older"]))
    return Unlocked(AccountId(body["account"]), bytes.fromhex(body["secret"]), older)

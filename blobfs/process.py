"""What a blobfs process does to itself: no core dumps, private files, a log, starting its own modules again,
and one error out of many. Knows nothing of stores, mounts or the network. Invariant: a secret never reaches another
process but over a descriptor that was made for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import logging.handlers
import os
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blobfs.errors import BlobfsError

_PR_SET_DUMPABLE: Final = 4
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 8 << 20
"""Bytes: above an extent, whose buffer comes too often to be mapped anew each time."""
_M_TRIM_THRESHOLD: Final = -1
_SLACK: Final = 40 << 20
"""Bytes of freed memory that stay for what comes next; the store gives them back when nobody writes. More than the two
windows of extents that an upload has in its hands, which it frees and reads anew all the time."""
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
"""Heaps of the process: each keeps its own slack, and by default every thread gets one."""
_YOUNG: Final = 5000
"""New objects after which garbage is looked for among them; by default 700."""
_LOG_BYTES: Final = 1 << 20
_LOG_FILES: Final = 3


def harden() -> None:
    """From here on: no core dump, no debugger or reader of our memory with the same uid, files for the owner only."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)
    # Until there is a log, nothing is logged: by default warnings and tracebacks would go to standard error.
    logging.lastResort = None


def settle_memory() -> None:
    """From here on freed memory is kept to a fixed extent, for the next request.

    glibc by itself learns: first it gives 128 KiB back at once, and pages made anew cost more than to read and open a
    row; later it keeps whatever was large once. Other C libraries do not know the question.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_M_MMAP_THRESHOLD, _LARGE)
        tune(_M_TRIM_THRESHOLD, _SLACK)
        tune(_M_ARENA_MAX, _ARENAS)


def answer_promptly() -> None:
    """From here on a thread that computes leaves the interpreter to others after half a millisecond, not five.

    Whoever answers the kernel gives the interpreter up with each system call, and would get it back that late. And what
    a request leaves behind lives until the databases have been told: to look through it for garbage finds none.
    """
    sys.setswitchinterval(500e-6)
    gc.set_threshold(_YOUNG)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules with this interpreter; give it `module_environment()`."""
    # -P: what lies in the current directory is no part of blobfs, whatever its name.
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """This process's environment, with the directory that blobfs was imported from on the module path."""
    here = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{inherited}" if inherited else here}


def spoken_command() -> str:
    """How to call `blobfs` from here: the bare name where a shell finds this very one, else the path to it."""
    beside = Path(sys.executable).with_name("blobfs")
    found = shutil.which("blobfs")
    if not beside.exists() or (found is not None and Path(found).resolve() == beside.resolve()):
        return "blobfs"
    return str(beside)


def is_debugging() -> bool:
    """Whether the user asked for more than sentences: `BLOBFS_DEBUG` is set."""
    return bool(os.environ.get("BLOBFS_DEBUG"))


def log_to(path: Path) -> None:
    """Send the program's log to `path`, at most three old files of 1 MiB beside it. Names and keys are never logged."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if is_debugging() else logging.INFO)
    # The HTTP library logs every request with its full address at INFO.
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def let_go_of_terminal() -> None:
    """Point standard input, output and error at nothing, so that whoever started us may go on."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if nothing > 2:
        os.close(nothing)


def tell_manager(state: str) -> None:
    """Tell the service manager that started this process how it stands, such as `READY=1`; without one, nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """What leaves the block is `plain`."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = plain(group)
        if error is group:
            raise
        logging.getLogger(__name__).error("ending after an error", exc_info=group)
        raise error from None


def plain(error: BaseException) -> BaseException:
    """One error of ours out of the groups that nurseries raise; anything else as it is."""
    ours: BaseException | None = error.subgroup(BlobfsError) if isinstance(error, BaseExceptionGroup) else None
    while isinstance(ours, BaseExceptionGroup):
        ours = ours.exceptions[0]
    return error if ours is None else ours

"""What a guess at a passphrase is to cost, found out on this machine when a passphrase is set.

Owns the choice between the floor and the ceiling of `values/keys.py`; they are enforced there, whoever chose.
Invariant: never below the floor; over it never more than a quarter of the memory that is free, nor than `MOST_KIB`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blobfs.errors import StoreError
from blobfs.screen import passing
from blobfs.values.keys import CEILING, FLOOR, Argon2Cost, hash_passphrase

MOST_KIB: Final = 512 << 10
"""A new device of the account must be able to spend it too, the smallest that the person will own included."""
_MEMINFO: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/sys/fs/cgroup/memory.max")


def calibrate(
    guess_s: float, measure: Callable[[Argon2Cost], float] | None = None, free_kib: int | None = None
) -> Argon2Cost:
    """The cost at which one guess takes `guess_s` here; the floor when that is dearer already.

    Args:
        guess_s: processor seconds; 0 is the floor, without measuring.
        measure: seconds that a cost takes; default: hashes once and looks at this process's clock.
        free_kib: memory that is free; default: asks the kernel.
    """
    if guess_s <= 0:
        return FLOOR
    measure = measure or spend
    most = min(MOST_KIB, CEILING.memory_kib, (free_memory_kib() if free_kib is None else free_kib) // 4)
    try:
        with passing("measuring how long a guess takes here"):
            return _measured(guess_s, measure, most)
    except StoreError:
        # The memory that was free a moment ago is not; a passphrase can be set all the same.
        return FLOOR


def _measured(guess_s: float, measure: Callable[[Argon2Cost], float], most: int) -> Argon2Cost:
    # Two steps: the larger the memory, the worse it fits the caches, so that twice as much takes more than twice.
    cost = _grown(FLOOR, guess_s / measure(FLOOR), most)
    took_s = measure(cost)
    if cost.memory_kib < most:
        return _grown(cost, guess_s / took_s, most)
    # Memory is what makes hardware dear that guesses; passes come when there is no more of it.
    iterations = int(cost.iterations * guess_s / took_s)
    return Argon2Cost(cost.memory_kib, min(max(iterations, FLOOR.iterations), CEILING.iterations), cost.lanes)


def spend(cost: Argon2Cost) -> float:
    """Processor seconds of one guess. Not of the wall's clock: on a busy machine that would make the hash weaker."""
    start = time.process_time()
    hash_passphrase(b"calibration", b"\0" * 16, cost)
    return max(time.process_time() - start, 1e-6)


def free_memory_kib() -> int:
    """KiB that programs can have without swapping, as far as this process's group may."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(_MEMINFO), re.MULTILINE)
    free = int(found[1]) if found is not None else 0
    limit = _read(_GROUP).strip()
    return min(free, int(limit) >> 10) if limit.isdecimal() else free


def _grown(cost: Argon2Cost, factor: float, most_kib: int) -> Argon2Cost:
    """`cost` with `factor` times the memory, in whole MiB and within the bounds."""
    memory_kib = min(int(cost.memory_kib * factor), most_kib) >> 10 << 10
    return Argon2Cost(max(memory_kib, FLOOR.memory_kib), cost.iterations, cost.lanes)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

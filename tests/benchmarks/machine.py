"""What the figures were taken on: processors, memory, kernel, disk. Names nothing that identifies a machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Final

GIB: Final = 1 << 30


def describe(disk: Path) -> dict[str, str]:
    """Facts by their names, for the head of a report. `disk` is where the images are made."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.0f} GiB",
        "system": f"{_release()}, Linux {platform.release().partition('-')[0]}{_virtual()}",
        "python": platform.python_version(),
        "disk": f"{_kind_of(disk)} below the images",
    }


def load() -> float:
    """Processes that ran or waited to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _release() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")


def _virtual() -> str:
    done = subprocess.run(["systemd-detect-virt", "--vm"], capture_output=True, text=True, check=False)
    kind = done.stdout.strip()
    return f", virtual ({kind})" if kind not in ("", "none") else ""


def _kind_of(path: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, name, *_ = line.split()
        if path.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind

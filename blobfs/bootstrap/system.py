"""What this machine must have, how to see that it is missing, and how each distribution calls it.

What is there is found by looking for the thing itself, never by asking for a package. Of the package
managers only apt-get was tried; the names for the others are from knowledge, and a wrong one ends in a clear sentence.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from blobfs.bootstrap.steps import Log, PackagesMissing, run_step, say, try_command

FUSE_DEVICE = Path("/dev/fuse")


class Need(NamedTuple):
    """Something the machine must have."""

    name: str
    is_met: Callable[[], bool]
    packages: dict[str, str]
    """Package manager → names of packages, separated by spaces."""


class PackageManager(NamedTuple):
    """How a distribution installs packages without asking."""

    program: str
    install: tuple[str, ...]
    refresh: tuple[str, ...] = ()
    """Brings the list of packages up to date, where installing does not."""
    patience: tuple[str, ...] = ()
    """Options of `install` for when nobody watches."""


PACKAGE_MANAGERS = (
    PackageManager(
        "apt-get",
        ("apt-get", "install", "-y", "--no-install-recommends"),
        ("apt-get", "update"),
        # The unattended upgrade that a fresh machine starts with is waited for.
        ("-o", "DPkg::Lock::Timeout=300"),
    ),
    PackageManager("dnf", ("dnf", "install", "-y")),
    PackageManager("zypper", ("zypper", "--non-interactive", "install")),
    PackageManager("pacman", ("pacman", "-S", "--noconfirm", "--needed")),
    PackageManager("apk", ("apk", "add"), ("apk", "update")),
)


def _is_on_path(*programs: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(program) for program in programs)


def _has_fuse_headers() -> bool:
    return _succeeds(["pkg-config", "--exists", "fuse3"])


def _has_compiler() -> bool:
    # The compiler that setuptools will call; and one without the C library's headers is of no use.
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    return _succeeds([compiler, "-E", "-x", "c", "-"], b"#include <stdio.h>\n")


def _has_python_headers() -> bool:
    return Path(sysconfig.get_path("include"), "Python.h").exists()


def _has_venv() -> bool:
    importlib.invalidate_caches()
    return all(importlib.util.find_spec(module) for module in ("venv", "ensurepip"))


def _succeeds(command: list[str], text: bytes = b"") -> bool:
    try:
        return subprocess.run(command, input=text, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

RUNNING = (
    Need(
        "fusermount3",
        _is_on_path("fusermount3"),
        {"apt-get": "fuse3", "dnf": "fuse3", "zypper": "fuse3", "pacman": "fuse3", "apk": "fuse3"},
    ),
)
BUILDING = (
    Need(
        "pkg-config",
        _is_on_path("pkg-config"),
        {
            "apt-get": "pkg-config",
            "dnf": "pkgconf-pkg-config",
            "zypper": "pkg-config",
            "pacman": "pkgconf",
            "apk": "pkgconf",
        },
    ),
    Need(
        "the headers of libfuse 3",
        _has_fuse_headers,
        {
            "apt-get": "libfuse3-dev",
            "dnf": "fuse3-devel",
            "zypper": "fuse3-devel",
            "pacman": "fuse3",
            "apk": "fuse3-dev",
        },
    ),
    Need(
        "a C compiler",
        _has_compiler,
        {"apt-get": "gcc libc6-dev", "dnf": "gcc", "zypper": "gcc", "pacman": "gcc", "apk": "gcc musl-dev"},
    ),
    Need(
        "the headers of Python",
        _has_python_headers,
        {
            "apt-get": f"python{_VERSION}-dev",
            "dnf": "python3-devel",
            "zypper": f"python{_VERSION.replace('.', '')}-devel",
            "pacman": "python",
            "apk": "python3-dev",
        },
    ),
    Need(
        "venv",
        _has_venv,
        {
            "apt-get": f"python{_VERSION}-venv",
            "dnf": "python3",
            "zypper": f"python{_VERSION.replace('.', '')}",
            "pacman": "python",
            "apk": "python3",
        },
    ),
)

TRYING = (
    Need(
        "PostgreSQL's server",
        lambda: find_postgresql() is not None,
        {
            "apt-get": "postgresql",
            "dnf": "postgresql-server",
            "zypper": "postgresql-server",
            "pacman": "postgresql",
            "apk": "postgresql",
        },
    ),
    Need(
        "Ceph's S3 server",
        _is_on_path("ceph", "ceph-mon", "ceph-osd", "radosgw"),
        {
            "apt-get": "ceph-common ceph-mon ceph-osd radosgw",
            "dnf": "ceph-common ceph-mon ceph-osd ceph-radosgw",
            "zypper": "ceph-common ceph-mon ceph-osd ceph-radosgw",
            "pacman": "ceph",
            "apk": "ceph-common ceph-mon ceph-osd ceph-radosgw",
        },
    ),
    Need(
        "a browser that programs can use",
        _is_on_path("chromium", "chromedriver"),
        {
            "apt-get": "chromium chromium-driver",
            "dnf": "chromium chromedriver",
            "zypper": "chromium chromedriver",
            "pacman": "chromium",
            "apk": "chromium chromium-chromedriver",
        },
    ),
    Need(
        "a D-Bus daemon and a keyring on it",
        _is_on_path("dbus-daemon", "gnome-keyring-daemon"),
        {
            "apt-get": "dbus gnome-keyring",
            "dnf": "dbus-daemon gnome-keyring",
            "zypper": "dbus-1-daemon gnome-keyring",
            "pacman": "dbus gnome-keyring",
            "apk": "dbus gnome-keyring",
        },
    ),
    Need("rclone", _is_on_path("rclone"), {manager.program: "rclone" for manager in PACKAGE_MANAGERS}),
)
"""For the tests alone, which start these themselves."""


def find_postgresql() -> Path | None:
    """The newest PostgreSQL's directory of programs; Debian keeps them off the PATH, one directory a version."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(8))
    return next((path for path in reversed(found) if (path / "postgres").exists()), None)


PROGRAMS = tuple(
    Need(program, _is_on_path(program), {manager.program: program for manager in PACKAGE_MANAGERS})
    for program in ("git", "make", "rsync", "tar", "zsh", "fish")
)
"""What the tests see work in a mount, or complete commands, beside what every machine has."""


def find_missing(needs: tuple[Need, ...]) -> list[Need]:
    """Those of `needs` that this machine does not meet."""
    return [need for need in needs if not need.is_met()]


def install_missing(needs: tuple[Need, ...], log: Log) -> None:
    """Meet `needs` through the package manager; on return all of them are met.

    Raises:
        PackagesMissing: there is no package manager we know, no right to use it, or it did not help.
        SetupFailure: the package manager failed.
    """
    missing = find_missing(needs)
    if not missing:
        return
    manager = next((each for each in PACKAGE_MANAGERS if shutil.which(each.program)), None)
    prefix = _find_privilege()
    if manager is None or prefix is None:
        raise PackagesMissing(_describe(missing, manager))
    packages = _name_packages(missing, manager)
    install = (*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *manager.install, *manager.patience, *packages)
    say(f"installing system packages: {' '.join(packages)} ...")
    if not try_command(install, log):
        # The usual reason is a list of packages that is too old, or was never fetched.
        if manager.refresh:
            run_step("refreshing the list of system packages", (*prefix, *manager.refresh), log)
        run_step("installing system packages", install, log)
    still_missing = find_missing(needs)
    if still_missing:
        raise PackagesMissing(_describe(still_missing, manager))


def find_fuse_fault() -> str | None:
    """Why /dev/fuse cannot be used, as one sentence with the way out; None when it can."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _FUSE_FAULTS.get(error.errno or 0, f"{FUSE_DEVICE} cannot be opened: {error.strerror}.")
    return None


_FUSE_FAULTS = {
    errno.ENOENT: f"{FUSE_DEVICE} is missing: load its kernel module with `modprobe fuse`, or hand the device to this "
    + "container (docker: --device /dev/fuse --cap-add SYS_ADMIN).",
    errno.ENODEV: f"{FUSE_DEVICE} has no kernel module behind it: load it with `modprobe fuse`.",
    errno.EACCES: f"{FUSE_DEVICE} may not be opened by this user: ask for the right to read and write it.",
    errno.EPERM: f"{FUSE_DEVICE} is withheld from this container: allow it (docker: --device /dev/fuse "
    + "--cap-add SYS_ADMIN).",
}


def _find_privilege() -> tuple[str, ...] | None:
    """What to put before a command so that root runs it, or None when that would need a password."""
    if os.geteuid() == 0:
        return ()
    return ("sudo", "-n") if _succeeds(["sudo", "-n", "true"]) else None


def _name_packages(missing: list[Need], manager: PackageManager) -> list[str]:
    return sorted({package for need in missing for package in need.packages[manager.program].split()})


def _describe(missing: list[Need], manager: PackageManager | None) -> str:
    names = ", ".join(need.name for need in missing)
    if manager is None:
        return f"this machine lacks {names}; install what brings them, then run this again."
    install = shlex.join((*manager.install, *_name_packages(missing, manager)))
    commands = f"{shlex.join(manager.refresh)} && {install}" if manager.refresh else install
    return f"this machine lacks {names}; as root, run `{commands}`, then run this again."

"""What the machine lacks, and what is done about it: with the right to install, without it, with no package manager."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from workshop import ROOT, Workshop

from blobfs import bootstrap
from blobfs.bootstrap import system
from blobfs.bootstrap.steps import Log, PackagesMissing, SetupFailure

APT_GET = """#!/bin/sh
# Knows no package until the list is refreshed, then brings fusermount3.
echo "$DEBIAN_FRONTEND $*" >>"$JOURNAL"
if [ "$1" = update ]; then : >"$0.list"; exit 0; fi
[ -e "$0.list" ] || exit 100
case "$*" in *fuse3*) printf '#!/bin/sh\\n' >"${0%/*}/fusermount3"; chmod +x "${0%/*}/fusermount3" ;; esac
"""
SUDO = """#!/bin/sh
[ "$1" = -n ] || exit 1
shift
echo "as root: $*" >>"$JOURNAL"
exec "$@"
"""


class Machine:
    """A PATH that holds only what a test puts there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = directory / "programs"
        self.programs.mkdir()
        self.journal = directory / "journal"
        self.log = Log(directory / "log", 0)
        monkeypatch.setenv("PATH", str(self.programs))
        monkeypatch.setenv("JOURNAL", str(self.journal))
        monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
        for program in ("env", "true", "chmod"):
            (self.programs / program).symlink_to(f"/usr/bin/{program}")

    def add(self, name: str, script: str = "#!/bin/sh\n") -> None:
        (self.programs / name).write_text(script)
        (self.programs / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_bare_machine_lacks_what_its_path_does_not_have(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    missing = {need.name for need in system.find_missing(system.RUNNING + system.BUILDING)}
    assert {"fusermount3", "pkg-config", "the headers of libfuse 3", "a C compiler"} <= missing


def test_a_compiler_without_the_c_library_counts_as_missing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = next(need for need in system.BUILDING if need.name == "a C compiler")
    machine.add("half-a-compiler", "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CC", "half-a-compiler -O2")
    assert not compiler.is_met()
    machine.add("half-a-compiler")
    assert compiler.is_met()


def test_every_need_has_a_package_with_every_package_manager() -> None:
    programs = {manager.program for manager in system.PACKAGE_MANAGERS}
    for need in system.RUNNING + system.BUILDING + system.TRYING:
        assert need.packages.keys() == programs


@pytest.mark.usefixtures("root")
def test_root_installs_and_refreshes_the_list_when_needed(machine: Machine) -> None:
    machine.add("apt-get", APT_GET)
    system.install_missing(system.RUNNING, machine.log)
    install = "noninteractive install -y --no-install-recommends -o DPkg::Lock::Timeout=300 fuse3"
    assert machine.journal.read_text().splitlines() == [install, " update", install]
    system.install_missing(system.RUNNING, machine.log)
    assert len(machine.journal.read_text().splitlines()) == 3


@pytest.mark.usefixtures("ordinary_user")
def test_a_user_with_passwordless_sudo_installs(machine: Machine) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("sudo", SUDO)
    system.install_missing(system.RUNNING, machine.log)
    assert system.find_missing(system.RUNNING) == []


@pytest.mark.usefixtures("ordinary_user")
def test_a_user_whose_sudo_wants_a_password_gets_the_command(machine: Machine) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("sudo", "#!/bin/sh\nexit 1\n")
    command = "`apt-get update && apt-get install -y --no-install-recommends fuse3`"
    with pytest.raises(PackagesMissing, match=command) as failure:
        system.install_missing(system.RUNNING, machine.log)
    assert failure.value.exit_code == 10
    assert not machine.journal.exists()


@pytest.mark.usefixtures("root")
def test_without_a_known_package_manager_the_things_themselves_are_named(machine: Machine) -> None:
    with pytest.raises(PackagesMissing, match=r"^this machine lacks fusermount3; install what brings them"):
        system.install_missing(system.RUNNING, machine.log)


@pytest.mark.usefixtures("root")
def test_a_package_that_does_not_help_is_not_taken_for_success(machine: Machine) -> None:
    machine.add("dnf")
    with pytest.raises(PackagesMissing, match="dnf install -y fuse3"):
        system.install_missing(system.RUNNING, machine.log)


@pytest.mark.usefixtures("root")
def test_a_package_manager_that_fails_names_the_log(machine: Machine) -> None:
    machine.add("dnf", "#!/bin/sh\necho no route to host\nexit 1\n")
    with pytest.raises(SetupFailure, match="installing system packages failed") as failure:
        system.install_missing(system.RUNNING, machine.log)
    assert failure.value.exit_code == 11
    assert "no route to host" in machine.log.path.read_text()


@pytest.mark.usefixtures("ordinary_user")
def test_missing_packages_are_one_line_and_exit_code_10(
    machine: Machine, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.add("apt-get", APT_GET)
    with pytest.raises(SystemExit) as end:
        bootstrap.prepare_or_exit(workshop.root, bootstrap.MOUNTING)
    assert end.value.code == 10
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("blobfs: this machine lacks fusermount3, ")
    assert said.err.count("\n") == 1


def test_a_missing_fuse_device_is_one_line_and_exit_code_12(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.install()
    capsys.readouterr()
    monkeypatch.setattr(system, "FUSE_DEVICE", workshop.root / "no-fuse")
    with pytest.raises(SystemExit) as end:
        bootstrap.prepare_or_exit(workshop.root, bootstrap.MOUNTING)
    assert end.value.code == 12
    said = capsys.readouterr().err
    assert "is missing" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.EACCES, errno.EPERM, errno.EIO])
def test_every_fault_of_the_fuse_device_has_a_sentence(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    fault = bootstrap.find_fuse_fault()
    assert fault is not None
    assert fault.startswith("/dev/fuse ")
    assert fault.endswith(".")


def test_an_old_python_is_told_in_a_sentence(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (99, 0))
    with pytest.raises(PackagesMissing, match=r"Python 3\.11 or newer"):
        bootstrap.prepare(workshop.root, bootstrap.MOUNTING)


def test_the_set_up_needs_nothing_but_the_standard_library() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import blobfs.bootstrap\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(names - sys.stdlib_module_names - {'__main__'}))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('blobfs.')))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    others, ours = done.stdout.splitlines()
    assert others == "blobfs"
    assert all(name.startswith("blobfs.bootstrap") for name in ours.split())


def test_an_environment_is_never_made_by_the_one_it_replaces(tmp_path: Path) -> None:
    venv.create(tmp_path / ".venv")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
        "from blobfs.bootstrap.environment import Environment\n"
        "print(Environment(Path(sys.argv[1])).interpreter)"
    )
    command = [tmp_path / ".venv/bin/python", "-I", "-c", program, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).is_relative_to(tmp_path)

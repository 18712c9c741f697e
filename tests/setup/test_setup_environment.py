"""`.venv`: what is installed when, and what a kill, a failure or a second set-up leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from workshop import Workshop

from blobfs.bootstrap.environment import MOUNTING, TESTING, Environment
from blobfs.bootstrap.steps import SetupFailure

EVERYTHING = [
    "venv",
    "--require-hashes --no-build-isolation -r blobfs/bootstrap/build.lock",
    "--require-hashes --no-build-isolation -r blobfs/bootstrap/runtime.lock",
    "--no-index --no-deps --no-build-isolation --editable .",
]


def test_a_new_environment_gets_every_part_once(workshop: Workshop) -> None:
    environment = workshop.install()
    assert workshop.take_journal() == EVERYTHING
    assert environment.find_outdated(MOUNTING) == ()
    workshop.install()
    assert workshop.take_journal() == []


def test_the_tests_are_installed_on_top_of_what_is_there(workshop: Workshop) -> None:
    workshop.install()
    workshop.take_journal()
    workshop.install(TESTING)
    assert workshop.take_journal() == ["--require-hashes --no-build-isolation -r blobfs/bootstrap/tests.lock"]


def test_a_changed_lock_file_installs_that_part_again(workshop: Workshop) -> None:
    workshop.install()
    workshop.take_journal()
    with (workshop.root / "blobfs/bootstrap/runtime.lock").open("a") as lock_file:
        lock_file.write("# refreshed\n")
    workshop.install()
    assert workshop.take_journal() == [EVERYTHING[2]]


def test_an_environment_of_another_set_up_is_replaced(workshop: Workshop) -> None:
    old = workshop.root / ".venv"
    (old / "lib/old").mkdir(parents=True)
    (old / "pyvenv.cfg").touch()
    workshop.install()
    assert workshop.take_journal() == EVERYTHING
    assert not (old / "lib").exists()


def test_a_directory_that_is_no_environment_is_not_emptied(workshop: Workshop) -> None:
    precious = workshop.root / ".venv/precious"
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(SetupFailure, match="move it away"):
        workshop.install()
    assert precious.exists()


def test_a_moved_checkout_is_set_up_again(workshop: Workshop) -> None:
    workshop.install()
    workshop.take_journal()
    workshop.root = workshop.root.rename(workshop.root.with_name("moved"))
    workshop.install()
    assert workshop.take_journal() == EVERYTHING


def test_an_environment_whose_python_is_gone_is_built_again(workshop: Workshop) -> None:
    environment = workshop.install()
    workshop.take_journal()
    environment.python.unlink()
    workshop.install()
    assert workshop.take_journal() == EVERYTHING


def test_a_damaged_stamp_counts_as_none(workshop: Workshop) -> None:
    workshop.install()
    workshop.take_journal()
    (workshop.root / ".venv/setup.json").write_bytes(b"[\xff")
    workshop.install()
    assert workshop.take_journal() == EVERYTHING


def test_a_failed_step_names_the_log_and_the_next_set_up_goes_on(workshop: Workshop) -> None:
    workshop.broken.touch()
    with pytest.raises(
        SetupFailure, match=r"installing the build tools failed; .*setup\.log has the full log"
    ) as failure:
        workshop.install()
    assert failure.value.exit_code == 11
    assert "no such version" in (workshop.root / ".venv/setup.log").read_text()
    assert workshop.take_journal() == EVERYTHING[:2]
    workshop.broken.unlink()
    workshop.install()
    assert workshop.take_journal() == EVERYTHING[1:]


def test_a_failed_refresh_keeps_what_was_installed(workshop: Workshop) -> None:
    environment = workshop.install(TESTING)
    with (workshop.root / "blobfs/bootstrap/tests.lock").open("a") as lock_file:
        lock_file.write("# refreshed\n")
    workshop.broken.touch()
    with pytest.raises(SetupFailure):
        workshop.install(TESTING)
    assert environment.find_outdated(MOUNTING) == ()
    assert environment.find_outdated(TESTING) == ("tests",)


def test_a_killed_set_up_is_waited_for_and_then_started_over(workshop: Workshop) -> None:
    os.mkfifo(workshop.gate)
    with workshop.installing() as first:
        workshop.hold_pip(first)
    with workshop.installing() as second:
        assert second.stderr is not None
        # The pip of the killed set-up still holds the lock.
        assert "waiting" in second.stderr.readline()
        workshop.release_pip()
        second.communicate()
    assert second.returncode == 0
    assert workshop.take_journal() == EVERYTHING[:2] + EVERYTHING


def test_of_two_set_ups_at_once_the_second_finds_it_done(workshop: Workshop) -> None:
    os.mkfifo(workshop.gate)
    with workshop.installing() as first:
        workshop.hold_pip(first)
        with workshop.installing() as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            workshop.release_pip()
            first.communicate()
            second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert workshop.take_journal() == EVERYTHING


def test_a_checkout_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".venv").touch()
    with pytest.raises(SetupFailure, match="cannot be written"), Environment(tmp_path).locked():
        pass

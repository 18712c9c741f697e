"""Kernels that ask for more: writes go through the page cache, and setuid is theirs to take. The tests are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mount import test_files, test_modes
from tests.mount.conftest import Mounted

open_folder = test_modes.open_folder
test_two_appenders = test_files.test_two_appenders_lose_nothing
test_writing_in_the_middle = test_files.test_writing_in_the_middle_keeps_the_rest
test_mapped_files = test_files.test_mapped_files_are_read_and_written
test_who_reads_what_one_writes = (
    test_files.test_readers_and_mappings_see_what_one_writes_who_opened_it_for_writing_alone
)
test_whoever_writes = test_modes.test_whoever_writes_takes_setuid_but_root_does_not
test_writing_and_chown = test_modes.test_writing_and_chown_by_another_user_clear_setuid
test_emptying_a_file = test_modes.test_emptying_a_file_as_it_is_opened_clears_setuid_but_not_for_root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for all of them."""
    mounted = Mounted(tmp_path_factory.mktemp("shared"))
    try:
        mounted.start("--allow-other", "--older-kernel")
        yield mounted
    finally:
        mounted.clean()

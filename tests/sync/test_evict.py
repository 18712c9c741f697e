"""How much has to go from the cache."""

from __future__ import annotations

import pytest

from blobfs.sync.evict import CacheLimits, excess


@pytest.mark.parametrize(
    ("stored", "free", "limits", "expected"),
    [
        (1000, 0, CacheLimits(), 0),
        (1000, 0, CacheLimits(most=1000), 0),
        (1001, 0, CacheLimits(most=1000), 101),
        (1000, 50, CacheLimits(free_disk=200), 150),
        (100, 50, CacheLimits(free_disk=200), 100),
        (2000, 50, CacheLimits(most=1000, free_disk=5000), 2000),
        (5, 0, CacheLimits(most=0), 5),
    ],
)
def test_what_is_over_either_limit_has_to_go(stored: int, free: int, limits: CacheLimits, expected: int) -> None:
    assert excess(stored, free, limits) == expected

"""Backoff: full jitter, by class of error, and what the server asks for."""

from __future__ import annotations

import trio
import trio.testing

from blobfs.errors import AccessDenied, RemoteUnavailable
from blobfs.remote.retry import MAX_RETRY_AFTER_S, Backoff, is_passing
from blobfs.remote.throttle import Throttle


def test_the_bound_doubles_up_to_the_longest_and_begins_anew() -> None:
    backoff = Backoff(dice=lambda low, high: high)
    error = RemoteUnavailable("away")
    assert [backoff.fail(error) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.succeed()
    assert backoff.fail(error) == 0.5


def test_every_wait_up_to_the_bound_can_be_drawn() -> None:
    bounds = []
    Backoff(dice=lambda low, high: bounds.append((low, high)) or 0.0).fail(RemoteUnavailable("away"))  # type: ignore[func-returns-value]
    assert bounds == [(0.0, 0.5)]


def test_retry_after_is_honoured_within_reason() -> None:
    backoff = Backoff(dice=lambda low, high: 0.0)
    assert backoff.fail(RemoteUnavailable("busy", 12)) == 12
    assert backoff.fail(RemoteUnavailable("busy", 1e9)) == MAX_RETRY_AFTER_S


def test_what_a_person_has_to_mend_is_tried_slowly() -> None:
    assert Backoff(dice=lambda low, high: high).fail(AccessDenied("no")) == 30
    assert is_passing(RemoteUnavailable("away"))
    assert not is_passing(AccessDenied("no"))


def test_a_throttle_keeps_its_rate() -> None:
    async def measure() -> float:
        throttle = Throttle(1_000_000)
        start = trio.current_time()
        for _ in range(20):
            await throttle.take(100_000)
        return trio.current_time() - start

    clock = trio.testing.MockClock(autojump_threshold=0)
    assert 1.7 <= trio.run(measure, clock=clock) < 2.01

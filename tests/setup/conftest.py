"""The workshop of the set-up's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    place = Workshop(tmp_path, monkeypatch)
    yield place
    place.release_pip()

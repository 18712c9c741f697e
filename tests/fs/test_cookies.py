"""What a cookie means, also when names are too many for both of its halves."""

from __future__ import annotations

import pytest

from blobfs.fs import cookies


@pytest.mark.parametrize("last", [0, 1, 2**20, 2**31 - 3, 2**31 - 2, 2**31, 2**40, cookies.ENDLESS])
def test_a_cookie_tells_its_place_and_where_its_reader_ends(last: int) -> None:
    for place in (1, 2, min(last, 2**61) + cookies.BEFORE):
        cookie = cookies.base(last) + place
        assert 0 < cookie < 2**63
        found, end = cookies.read(cookie)
        assert found == place
        assert end in (last, cookies.ENDLESS)
        assert end == last or last > 2**31 - 3


def test_a_reader_begins_before_all_names() -> None:
    assert cookies.read(0)[0] == 0

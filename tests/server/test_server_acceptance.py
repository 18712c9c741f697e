"""Behaviours of `tests/api/test_soledad.py` that are a server's."""

from __future__ import annotations

import pytest
from server_process import Account, files_below


def test_counts_are_of_blobs_and_a_false_deleted_is_false(account: Account) -> None:
    place = f"/blobs/{account.name}"
    for name in ("kept", "flagged", "gone"):
        account.put(name, b"bytes")
    account.http.post(f"{place}/flagged", json=["PENDING"])
    account.http.delete(f"{place}/gone")

    def count(**query: str) -> int:
        number: int = account.http.get(place, params={"only_count": "true", **query}).json()["count"]
        return number

    assert (count(), count(deleted="false"), count(deleted="0"), count(deleted="true")) == (2, 2, 2, 1)
    assert (count(filter_flag="PENDING"), count(namespace="other")) == (1, 0)
    assert account.http.get(place, params={"deleted": "False"}).json() == account.http.get(place).json()
    assert account.http.get(place, params={"deleted": "perhaps"}).status_code == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
def test_what_is_not_there_is_404_by_every_method(account: Account, method: str) -> None:
    before = files_below(account.server.data / "blobs")
    body = {"json": ["PENDING"]} if method == "POST" else {}
    answer = account.http.request(method, f"/blobs/{account.name}/nothing", params={"namespace": "none"}, **body)
    assert answer.status_code == 404
    assert files_below(account.server.data / "blobs") == before

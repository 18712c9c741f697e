"""Many blobs in one request, in both directions."""

import os
import socket
import struct
from urllib.parse import urlsplit

from server_process import Account, files_below, random_blobs, wait_until

from blobfs.protocol import ITEM_HEADER, authorization_header, pack_item_header, unpack_item_header


def parse_items(body: bytes) -> list[tuple[int, str, bytes]]:
    items, offset = [], 0
    while offset < len(body):
        status, id_length, length = unpack_item_header(body[offset : offset + ITEM_HEADER.size])
        offset += ITEM_HEADER.size
        name = body[offset : offset + id_length].decode()
        offset += id_length
        items.append((int(status), name, body[offset : offset + length]))
        offset += length
    return items


def test_a_thousand_small_blobs_go_up_and_come_down_in_order(account: Account) -> None:
    items = random_blobs(1000, 100)
    assert account.upload(items) == ["created"] * 1000
    assert account.upload(items[:10]) == ["exists"] * 10
    ids = [name for name, _ in items[:500]]
    wanted = [*ids[:250], "absent", *ids[250:]]
    body = account.http.post(f"/stream/{account.name}?direction=download", json={"ids": wanted}).content
    expected = [(0, name, data) for name, data in items[:500]]
    expected.insert(250, (1, "absent", b""))
    assert parse_items(body) == expected


def test_large_and_small_items_mix(account: Account) -> None:
    items = [(f"i{number}", os.urandom(size)) for number, size in enumerate([10, 3 << 20, 0, 600 << 10, 1, 512 << 10])]
    assert account.upload([*items, ("i1", bytes(2 << 20))]) == ["created"] * 6 + ["exists"]
    ids = [name for name, _ in items]
    body = account.http.post(f"/stream/{account.name}?direction=download", json={"ids": ids}).content
    assert parse_items(body) == [(0, name, data) for name, data in items]


def test_one_id_twice_in_a_stream_is_created_once(account: Account) -> None:
    assert account.upload([("same", b"1"), ("same", b"22"), ("other", b"3")]) == ["created", "exists", "created"]
    assert account.get("same").content == b"1"
    assert account.used() == (2, 0)


def test_an_item_with_a_wrong_id_is_invalid_and_the_others_are_not(account: Account) -> None:
    assert account.upload([("ok1", b"1"), ("../up", b"22"), ("a/b", bytes(1 << 20)), ("ok2", b"3")]) == [
        "created",
        "invalid",
        "invalid",
        "created",
    ]


def test_a_stream_that_breaks_the_framing_is_400_and_what_came_whole_counts(account: Account) -> None:
    url = f"/stream/{account.name}?direction=upload"
    whole = pack_item_header("whole", 3) + b"abc"
    broken = [
        whole + pack_item_header("cut", 10) + b"abc",
        pack_item_header("big", 17 << 20) + b"abc",
        struct.pack(">BBQ", 7, 3, 1) + b"abcd",
        struct.pack(">BBQ", 1, 3, 0) + b"abc",
        struct.pack(">BBQ", 0, 0, 0),
        struct.pack(">BBQ", 0, 129, 0) + bytes(129),
        b"junk",
    ]
    assert [account.http.post(url, content=body).status_code for body in broken] == [400] * len(broken)
    assert account.http.get(f"/blobs/{account.name}").json()["blobs"] == ["whole"]
    assert account.http.post(url, content=b"").json() == {"results": []}
    many = b"".join(pack_item_header(f"n{number}", 0) for number in range(1001))
    assert account.http.post(url, content=many).status_code == 413
    assert account.http.post(f"/stream/{account.name}", content=b"").status_code == 400
    assert account.http.post(f"/stream/{account.name}?direction=sideways", content=b"").status_code == 400


def test_a_stream_cut_within_a_large_item_leaves_nothing_of_it(account: Account) -> None:
    address = urlsplit(account.server.url)
    with socket.create_connection((address.hostname, address.port)) as sock:
        head = f"POST /stream/{account.name}?direction=upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        head += f"Authorization: {authorization_header(account.name, account.token)}\r\n\r\n"
        sock.sendall(head.encode() + pack_item_header("large", 8 << 20) + bytes(1 << 20))
        wait_until(lambda: account.used()[1] > 0)
    wait_until(lambda: account.used() == (0, 0))
    assert files_below(account.server.data / "blobs" / ".staged") == []

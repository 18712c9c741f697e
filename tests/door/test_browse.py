"""The page of `blobfs browse`, by plain HTTP: whom it answers, what it shows, and what it does."""

from __future__ import annotations

import contextlib
import html
import http.client
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import blobfs
from tests.door.conftest import Desk, await_close, sync, tell, told, wait_until
from tests.door.visiting import Visitor, inner, picture

NOBODY = 65534
ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as peer:
    try:
        peer.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: 127.0.0.1:{sys.argv[1]}\\r\\n\\r\\n".encode())
        print(peer.recv(12).decode())
    except OSError:
        print()
"""


@pytest.fixture
def visit(account: Desk) -> Iterator[Callable[[], Visitor]]:
    """Makes visitors who hold a link."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Visitor(account)))


@pytest.fixture
def visitor(visit: Callable[[], Visitor]) -> Visitor:
    """One who has followed it."""
    visitor = visit()
    assert visitor.enter().status_code == 200
    return visitor


def test_a_link_opens_one_session_and_is_dead_then(visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    assert visitor.get("files").status_code == 403
    assert visitor.client.head(visitor.link).status_code == 405
    prefetched = visitor.client.get(visitor.link, headers={"Sec-Purpose": "prefetch"})
    assert prefetched.status_code == 403
    cookie = visitor.enter().headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert visitor.get("files").status_code == 200
    for link in (visitor.link, visitor.origin + "/files/", visitor.origin + "/open/" + "x" * 43):
        assert httpx.get(link, trust_env=False).status_code == 403


if os.geteuid() == 0:  # Only root can become somebody else.

    def test_another_user_who_reads_the_link_gets_no_answer_and_it_stays_good(visit: Callable[[], Visitor]) -> None:
        visitor = visit()
        port = visitor.origin.rpartition(":")[2]
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
        answers = [
            subprocess.run(
                [python, "-S", "-c", ASK, port, visitor.link.removeprefix(visitor.origin)],
                user=user,
                extra_groups=[],
                capture_output=True,
                text=True,
                cwd="/",
                check=True,
            ).stdout
            for user in (NOBODY, 0)
        ]
        assert [answer.strip() for answer in answers] == ["", "HTTP/1.1 200"]


@pytest.mark.parametrize("host", ["localhost", "evil.example", "127.0.0.1", "evil.example:{port}", "127.0.0.1.:{port}"])
def test_under_another_name_the_page_is_not_there(visitor: Visitor, host: str) -> None:
    port = visitor.origin.rpartition(":")[2]
    for path in ("/files/", "/page.css", "/state/"):
        assert visitor.client.get(path, headers={"Host": host.format(port=port)}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "{origin}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "{origin}", "Sec-Fetch-Site": "same-site"},
        {},
    ],
)
def test_another_site_changes_and_learns_nothing(
    account: Desk, visitor: Visitor, folder: Path, headers: dict[str, str]
) -> None:
    given = {name: value.format(origin=visitor.origin) for name, value in headers.items()}
    fields = {"form": visitor.form(), "path": inner(account, folder)}
    assert visitor.client.post("/do/pin", data=fields, headers=given).status_code == 403
    assert not told(account, "status", folder)["pinned"]
    if given:
        answer = visitor.client.get("/files/", headers=given)
        assert answer.status_code == 403
        assert folder.name not in answer.text


def test_a_change_needs_the_sessions_own_form(
    account: Desk, visit: Callable[[], Visitor], visitor: Visitor, folder: Path
) -> None:
    other = visit()
    other.enter()
    path = inner(account, folder)
    for form in ("", "x", other.form()):
        fields = {"form": form, "path": path}
        answer = visitor.client.post("/do/pin", data=fields, headers={"Origin": visitor.origin})
        assert answer.status_code == 403
    assert visitor.client.get("/do/pin", params={"form": visitor.form(), "path": path}).status_code == 405
    assert visitor.client.put("/do/pin", data={"form": visitor.form()}).status_code == 405
    assert not told(account, "status", folder)["pinned"]


def test_no_path_leads_out_of_the_mount(visitor: Visitor) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.client.cookies.items())
    for target in ("/files/../../etc/passwd", "/files/%2e%2e/%2e%2e/etc/passwd", "/raw/..%2f..%2fetc%2fpasswd"):
        # A client that leaves the path as it is.
        line = http.client.HTTPConnection(visitor.origin.removeprefix("http://"))
        with contextlib.closing(line):
            line.request("GET", target, headers={"Cookie": cookie})
            answer = line.getresponse()
            assert (answer.status, b"leads out of the mount" in answer.read()) == (400, True), target
    for path in ("/page.py", "/../site.py", "/files/a%00b", "/nothing/", "/files/%ff%fe"):
        assert visitor.client.get(path).status_code in (400, 404)


def test_every_answer_forbids_what_a_browser_might_do_with_it(account: Desk, visitor: Visitor, folder: Path) -> None:
    (folder / "file.txt").write_text("text")
    raw = visitor.get("raw", inner(account, folder / "file.txt"))
    answers = [visitor.get(room) for room in ("files", "waiting", "conflicts", "trash", "search", "state", "nothing")]
    for answer in (*answers, raw, visitor.client.get("/page.js"), httpx.get(visitor.origin, trust_env=False)):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "sandbox" in raw.headers["content-security-policy"]


def test_names_of_other_devices_are_text_whatever_they_hold(account: Desk, visitor: Visitor, folder: Path) -> None:
    names = [
        b"<script>alert(1)<%2fscript>",
        b'"><img src=x onerror=alert(1)>',
        b"' onmouseover='alert(1)",
        b"&lt;b&gt;",
        "cod\u202egnp.exe".encode(),
        b"not \xff utf-8",
        b"line\nend",
        b"a%2e?b#c;d",
        "\N{SNOWMAN} m\u00e4lz".encode(),
    ]
    for name in names:
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(b"x")
    page = visitor.get("files", inner(account, folder)).text
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "onmouseover='" not in page
    assert "\u202e" not in page
    assert "cod\N{REPLACEMENT CHARACTER}gnp.exe" in page
    assert "\N{SNOWMAN} m\u00e4lz" in page
    for name in names:
        path = os.fsencode(inner(account, folder)) + b"/" + name
        assert visitor.get("files", path).status_code == 200
        assert visitor.get("raw", path).text == "x"


def test_only_pictures_and_plain_text_are_shown_and_by_their_bytes(
    account: Desk, visitor: Visitor, folder: Path
) -> None:
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    shown = {
        "a.png": (picture(), "image/png"),
        "b.html": (picture(), "image/png"),
        "c.png": (script, "text/plain; charset=utf-8"),
        "d.svg": (script, "text/plain; charset=utf-8"),
        "e.html": (b"<script>alert(1)</script>", "text/plain; charset=utf-8"),
        "f.jpg": (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        "g.txt": (("\N{SNOWMAN}" * 3000).encode(), "text/plain; charset=utf-8"),
        "h.pdf": (b"%PDF-1.7\n\0\1\2", None),
        "empty": (b"", "text/plain; charset=utf-8"),
    }
    for name, (content, kind) in shown.items():
        (folder / name).write_bytes(content)
        answer = visitor.get("raw", inner(account, folder / name))
        if kind is None:
            assert answer.status_code == 415
        else:
            assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, kind, content)
            assert "sandbox" in answer.headers["content-security-policy"]


def test_of_a_huge_file_that_is_not_here_only_the_ranges_come_that_are_shown(
    account: Desk, visitor: Visitor, folder: Path
) -> None:
    text, scan = folder / "log.txt", folder / "scan.png"
    content = picture(20 << 20)
    text.write_bytes(b"line of a log\n" * (1 << 20))
    scan.write_bytes(content)
    sync(account)
    tell(account, "evict", folder)
    page = visitor.get("files", inner(account, folder)).text
    assert page.count("server only") == 2
    assert "/raw/" not in page  # nothing of it is asked for by being listed
    small = visitor.client.get(f"/raw/{inner(account, scan)}", params={"small": "1"})
    assert small.status_code == 404
    assert told(account, "status", scan)["here"] == 0
    answer = visitor.get("raw", inner(account, text))
    assert answer.content == (b"line of a log\n" * 20_000)[: 256 << 10]
    assert 0 < here(account, text) <= 4 << 20
    part = visitor.get("raw", inner(account, scan), Range="bytes=10000000-10000999")
    assert (part.status_code, part.content) == (206, content[10_000_000:10_001_000])
    assert part.headers["content-range"] == f"bytes 10000000-10000999/{20 << 20}"
    assert 0 < here(account, scan) <= 8 << 20
    assert visitor.get("raw", inner(account, scan), Range="bytes=-10").content == content[-10:]
    assert visitor.get("raw", inner(account, scan), Range=f"bytes={20 << 20}-").status_code == 416
    assert visitor.get("raw", inner(account, scan)).content == content


def here(account: Desk, file: Path) -> int:
    """Bytes that are here of what was read just now: the store gets them behind the reader."""
    wait_until(lambda: told(account, "status", file)["here"] > 0)
    return int(told(account, "status", file)["here"])


def test_pinning_evicting_and_sync_are_done_by_their_buttons(account: Desk, visitor: Visitor, folder: Path) -> None:
    (folder / "file").write_bytes(b"x" * 5000)
    path = inner(account, folder)
    assert visitor.act("sync", path=path) == "What waits is being sent."
    sync(account)
    assert "stays here" in visitor.act("pin", path=path)
    assert told(account, "status", folder)["pinned_itself"]
    assert "Kept here by a folder above" in visitor.shown("files", f"{path}/file")
    assert "what is pinned or not on the server yet stays" in visitor.act("evict", path=path)
    visitor.act("unpin", path=path)
    assert "1 of 1 files" in visitor.act("evict", path=path)
    assert told(account, "status", folder / "file")["state"] == "server only"


def test_a_version_is_restored_and_a_deleted_file_comes_back(account: Desk, visitor: Visitor, folder: Path) -> None:
    file = folder / "letter.txt"
    for content in ("first", "second"):
        file.write_text(content)
        sync(account)
    first = told(account, "versions", file)[-1]["version"]
    assert "as it is now" in visitor.shown("versions", inner(account, file))
    await_close(account, file)
    assert "newest" in visitor.act("restore", path=inner(account, file), version=str(first))
    assert file.read_text() == "first"
    assert "did not work" in visitor.act("restore", path=inner(account, file), version="12345678")
    sync(account)
    file.unlink()
    sync(account)
    (entry,) = [entry for entry in told(account, "trash", account.mount) if entry["path"] == inner(account, file)]
    assert "letter.txt" in visitor.shown("trash")
    assert visitor.act("undelete", doc_id=entry["doc_id"]) == "letter.txt is back."
    assert file.read_text() == "first"


def test_an_old_version_is_shown_and_compared_with_what_the_file_is_now(
    account: Desk, visitor: Visitor, folder: Path
) -> None:
    file, path = folder / "poem.txt", inner(account, folder / "poem.txt")
    file.write_text("".join(f"line {number}\n" for number in range(30)) + "the <old> end\n")
    sync(account)
    file.write_text("".join(f"line {number}\n" for number in range(30)) + "a new end\n")
    sync(account)
    versions = visitor.get("versions", path).text
    link = html.unescape(re.search(r'href="(/version/[^"]+)"', versions)[1])  # type: ignore[index]
    page = visitor.client.get(link)
    assert page.status_code == 200
    assert '<span class="removed">-the &lt;old&gt; end\n</span>' in page.text
    assert '<span class="added">+a new end\n</span>' in page.text
    assert "line 3\n" not in page.text
    raw = visitor.client.get(link.replace("/version/", "/raw/"))
    assert raw.text.endswith("line 29\nthe <old> end\n")
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert "sandbox" in raw.headers["content-security-policy"]
    file.write_bytes(bytes(range(256)) * 10)
    assert "Only short texts are compared" in visitor.client.get(link).text
    for bad in ("?version=9999999", "?version=x", ""):
        assert visitor.client.get(link.partition("?")[0] + bad).status_code in (400, 404)


def test_a_conflict_shows_the_lines_that_differ(account: Desk, visitor: Visitor, folder: Path) -> None:
    (folder / "letter.txt").write_text("same\nmine\n")
    copy = folder / "letter (conflict left 2026-01-02 030405).txt"
    copy.write_text("same\ntheirs\n")
    page = visitor.get("conflict", inner(account, copy)).text
    assert '<span class="removed">-mine\n</span><span class="added">+theirs\n</span>' in page


def test_a_folder_comes_back_from_the_trash_with_what_was_in_it(account: Desk, visitor: Visitor, folder: Path) -> None:
    for name in ("a/b", "c"):
        (folder / "deep" / name).mkdir(parents=True)
        (folder / "deep" / name / "file").write_text(name)
    sync(account)
    shutil.rmtree(folder / "deep")
    sync(account)
    wanted = inner(account, folder / "deep")
    (entry,) = [entry for entry in told(account, "trash", account.mount) if entry["path"] == wanted]
    assert visitor.act("undelete", doc_id=entry["doc_id"]) == "deep is back."
    assert [(folder / "deep" / name / "file").read_text() for name in ("a/b", "c")] == ["a/b", "c"]
    assert "did not work" in visitor.act("undelete", doc_id=entry["doc_id"])


def test_what_did_not_work_leads_back_to_the_page_and_nowhere_else(visitor: Visitor) -> None:
    form = visitor.form()
    for referer, back in (
        ("{origin}/trash/", "/trash/"),
        ("{origin}//evil.example/", "/files/"),
        ("{origin}.evil.example/trash/", "/files/"),
        ("{origin}/trash/\u00e9", "/files/"),
        ("https://evil.example/trash/", "/files/"),
    ):
        headers = {
            "Origin": visitor.origin.encode(),
            "Referer": referer.format(origin=visitor.origin).encode("latin-1"),
        }
        answer = visitor.client.post("/do/nothing", data={"form": form}, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (303, back)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("original", {"letter.txt": "mine"}),
        ("copy", {"letter.txt": "theirs"}),
        ("both", {"letter.txt": "mine", "letter (left 2026-01-02 030405).txt": "theirs"}),
    ],
)
def test_what_a_settled_conflict_gives_up_can_come_back(
    account: Desk, visitor: Visitor, folder: Path, keep: str, left: dict[str, str]
) -> None:
    file, copy = folder / "letter.txt", folder / "letter (conflict left 2026-01-02 030405).txt"
    path = inner(account, copy)
    tell(account, "config", account.mount, "paused", "on")
    try:
        file.write_text("mine")
        copy.write_text("theirs")
        await_close(account, file, copy)
        if keep != "both":
            assert "not on the server yet" in visitor.act("resolve", path=path, keep=keep)
    finally:
        tell(account, "config", account.mount, "paused", "off")
    sync(account)
    page = visitor.shown("conflict", path)
    assert "The file" in page
    assert "The copy" in page
    assert f"{folder.name}/{copy.name}" in visitor.shown("conflicts")
    assert visitor.act("resolve", path=path, keep=keep) == "The conflict is resolved."
    assert {found.name: found.read_text() for found in folder.iterdir()} == left
    assert f"{folder.name}/{copy.name}" not in visitor.shown("conflicts")
    sync(account)
    if keep != "both":
        gone = [entry["path"] for entry in told(account, "trash", account.mount)]
        assert inner(account, copy if keep == "original" else file) in gone


def test_a_file_that_a_program_has_open_is_not_given_up(account: Desk, visitor: Visitor, folder: Path) -> None:
    copy = folder / "letter (conflict left 2026-01-02 030405).txt"
    (folder / "letter.txt").write_text("mine")
    copy.write_text("theirs")
    sync(account)
    with copy.open():
        said = visitor.act("resolve", path=inner(account, copy), keep="original")
    assert "open" in said
    assert copy.read_text() == "theirs"
    assert "no conflict copy" in visitor.act("resolve", path=inner(account, folder / "letter.txt"), keep="copy")


def test_names_are_found_in_whatever_case_and_what_waits_says_why(
    account: Desk, visitor: Visitor, folder: Path
) -> None:
    (folder / "Gr\u00fc\u00dfe aus Rom.txt").write_text("x")
    page = visitor.client.get("/search/", params={"q": "GR\u00dcSSE"}).text
    assert "aus Rom.txt" in page
    assert "1 found" in page
    nothing = visitor.client.get("/search/", params={"q": "<b>nothing"}).text
    assert "Nothing has such a name" in nothing
    assert "<b>" not in nothing
    tell(account, "config", account.mount, "paused", "on")
    try:
        (folder / "later").write_text("x")
        assert "sync is paused" in visitor.shown("waiting")
        assert visitor.client.get("/state/").json()["state"] == "paused"
        assert "sync is paused" in visitor.shown("files", inner(account, folder / "later"))
    finally:
        tell(account, "config", account.mount, "paused", "off")


def test_what_no_listing_shows_the_page_does_not_list(account: Desk, visitor: Visitor) -> None:
    passphrase = account.passphrase.read_text().strip()
    with blobfs.open_account(account.store, passphrase=passphrase) as program:
        doc = program.create_doc({}, doc_id="with-attachments")
        doc.put_attachment(b"a plan", "plan.pdf")
        program.put_doc(doc)
    listed = visitor.get("files").text + visitor.client.get("/search/", params={"q": "plan"}).text
    assert "with-attachments" in listed
    assert ".blobfs" not in listed
    assert "plan.pdf" not in listed


def test_a_long_folder_comes_in_pages(account: Desk, visitor: Visitor, folder: Path) -> None:
    for number in range(201):
        (folder / f"{number:03}").touch()
    first = visitor.get("files", inner(account, folder))
    assert "?from=200" in first.text
    assert ">199<" in first.text
    second = visitor.client.get(f"/files/{inner(account, folder)}", params={"from": "200"}).text
    assert ">200<" in second
    assert ">199<" not in second


def test_the_page_ends_by_its_button_and_with_the_mount(account: Desk, visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    visitor.enter()
    fields = {"form": visitor.form()}
    closed = visitor.client.post("/do/end", data=fields, headers={"Origin": visitor.origin})
    assert closed.status_code == 200
    again = visit()
    again.enter()
    assert again.get("files").status_code == 200
    tell(account, "lock", account.mount)
    with pytest.raises(httpx.TransportError):
        httpx.get(again.origin, trust_env=False)
    assert account.run("browse", account.mount).returncode == 17
    account.up()
    log = (account.store / "log").read_text()
    assert "the page listens" in log
    for hidden in (visitor.token, again.token, "letter.txt", "Rom.txt"):
        assert hidden not in log

"""`import` from elsewhere: directories that rclone encrypted, and WebDAV servers."""

from __future__ import annotations

import http.server
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from blobfs import rclone
from blobfs.errors import AccessDenied, BlobfsError, RemoteUnavailable, UsageError
from tests.door.conftest import Desk, end, tell, wait_until
from tests.door.test_terminal import Terminal
from tests.e2e.devices import tree


def rclone_environment(**settings: str) -> dict[str, str]:
    """For an rclone that knows one remote, `test`, and no file of the user's."""
    made = {f"RCLONE_CONFIG_TEST_{name.upper()}": value for name, value in settings.items()}
    return os.environ | made | {"RCLONE_CONFIG": ""}


def obscured(password: str) -> str:
    done = subprocess.run(["rclone", "obscure", "-"], input=password, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def plant(top: Path) -> None:
    """What WebDAV and crypt can both hold."""
    (top / "folder" / "empty").mkdir(parents=True)
    (top / "folder" / "large").write_bytes(os.urandom(300_000))
    (top / "nothing").touch()
    (top / "naïve 名.txt").write_text("text\n")
    for path in (top / "folder" / "large", top / "nothing", top / "naïve 名.txt", top / "folder" / "empty"):
        os.utime(path, ns=(1_500_000_000_000_000_000, 1_500_000_007_000_000_000))


def encrypt(source: Path, target: Path, password: str, **settings: str) -> None:
    """Have rclone write `source` as a crypt remote into `target`."""
    environment = rclone_environment(type="crypt", remote=str(target), password=obscured(password), **settings)
    subprocess.run(
        ["rclone", "copy", "--create-empty-src-dirs", str(source), "test:"],
        env=environment,
        check=True,
        capture_output=True,
    )


def contents(top: Path) -> dict[str, tuple[bytes, int]]:
    """Path below `top` -> (bytes, time of change)."""
    return {
        str(path.relative_to(top)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in top.rglob("*")
        if path.is_file()
    }


def is_mounted(directory: Path) -> bool:
    """Whether something is mounted below `directory`, said by the kernel alone."""
    return f" {directory}/" in Path("/proc/self/mounts").read_text()


def temporary(account: Desk) -> list[str]:
    return [name for name in os.listdir(account.environment["TMPDIR"]) if name.startswith("blobfs-import-")]


@pytest.fixture
def place(account: Desk, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the mount; afterwards nothing of an import is left."""
    monkeypatch.setitem(account.environment, "TMPDIR", str(tmp_path))
    yield folder / "in"
    assert temporary(account) == []


# --- rclone crypt -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        pytest.param({}, (), id="plain"),
        pytest.param({"password2": "pepper"}, ("--password2-file", "salt"), id="salt"),
        pytest.param(
            {"filename_encryption": "off", "directory_name_encryption": "false"}, ("--crypt-names", "off"), id="names"
        ),
        pytest.param(
            {"filename_encoding": "base64", "directory_name_encryption": "false"},
            ("--crypt-encoding", "base64", "--crypt-plain-folders"),
            id="folders",
        ),
    ],
)
def test_what_rclone_encrypted_comes_in_as_it_was(
    account: Desk, place: Path, tmp_path: Path, settings: dict[str, str], options: tuple[str, ...]
) -> None:
    plain, sealed, salt = tmp_path / "plain", tmp_path / "sealed", tmp_path / "salt"
    plain.mkdir()
    plant(plain)
    if "password2" in settings:
        salt.write_text(settings["password2"] + "\n")
        settings = settings | {"password2": obscured(settings["password2"])}
    encrypt(plain, sealed, "open sesame", **settings)
    given = [salt if word == "salt" else word for word in options]
    command = ("import", "--rclone-crypt", sealed, place, "--password-file", account.passphrase, *given)
    assert tell(account, *command).startswith("3 files, ")
    assert contents(place) == contents(plain)
    assert (place / "folder" / "empty").is_dir()
    assert "3 were there already" in tell(account, *command, "--again")


def test_a_wrong_password_and_damaged_files_are_told(account: Desk, place: Path, tmp_path: Path) -> None:
    plain, sealed, wrong = tmp_path / "plain", tmp_path / "sealed", tmp_path / "wrong"
    plain.mkdir()
    (plain / "good").write_bytes(b"good")
    (plain / "bad").write_bytes(bytes(1000))
    encrypt(plain, sealed, "open sesame")
    wrong.write_text("mistaken\n")
    done = account.run("import", "--rclone-crypt", sealed, place, "--password-file", wrong)
    assert (done.returncode, "opens no name" in done.stderr) == (3, True)
    damaged = max(sealed.iterdir(), key=lambda path: path.stat().st_size)
    sealed_bytes = damaged.read_bytes()
    damaged.write_bytes(sealed_bytes[:-1] + bytes([sealed_bytes[-1] ^ 1]))
    (sealed / "not of this password").touch()
    done = account.run("import", "--rclone-crypt", sealed, place, "--password-file", account.passphrase)
    assert done.returncode == 22
    assert "bad: it ended before its size" in done.stderr
    assert "rclone says: " in done.stderr
    assert [path.name for path in place.iterdir()] == ["good"]
    damaged.unlink()
    done = account.run("import", "--rclone-crypt", sealed, place, "--password-file", account.passphrase, "--again")
    assert (done.returncode, "1 names in that directory" in done.stderr) == (22, True)


# --- WebDAV ---------------------------------------------------------------------------------------------------------


@contextmanager
def webdav(top: Path) -> Iterator[str]:
    """A real server of `top`; alice's password is the account's passphrase."""
    settings = os.environ | {"RCLONE_USER": "alice", "RCLONE_PASS": "open sesame", "RCLONE_CONFIG": ""}
    process = subprocess.Popen(
        ["rclone", "serve", "webdav", str(top), "--addr", "127.0.0.1:0", "--read-only", "--dir-cache-time", "0"],
        env=settings,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        yield next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
    finally:
        process.kill()
        process.communicate()


def test_a_folder_of_a_webdav_server_comes_in_and_goes_on(account: Desk, place: Path, tmp_path: Path) -> None:
    top, wrong = tmp_path / "top", tmp_path / "wrong"
    (top / "files").mkdir(parents=True)
    plant(top / "files")
    wrong.write_text("mistaken\n")
    with webdav(top) as address:
        command = ("import", f"{address}files", place, "--user", "alice", "--password-file", account.passphrase)
        assert tell(account, *command).startswith("3 files, ")
        assert contents(place) == contents(top / "files")
        (top / "files" / "later").write_bytes(b"later")
        told = tell(account, *command, "--again")
        assert told.startswith("1 file, ")
        assert "3 were there already" in told
        assert tree(place).keys() == tree(top / "files").keys()
        done = account.run("import", address, place / "x", "--user", "alice", "--password-file", wrong)
        assert (done.returncode, "401" in done.stderr) == (14, True)
        assert done.stderr.startswith("blobfs: the server refuses user or password; check both")
        for name, said in (("files/nothing", "there is a file; name the folder"), ("nowhere", "no such folder")):
            aim = ("import", address + name, place / "x", "--user", "alice", "--password-file", account.passphrase)
            done = account.run(*aim)
            assert (done.returncode, said in done.stderr) == (22, True), done.stderr
        spoken = address.replace("http://", "dav://bob@")
        assert account.run("import", spoken, place / "x", "--password-file", account.passphrase).returncode == 14
    done = account.run("import", address, place / "x", "--user", "alice", "--password-file", account.passphrase)
    assert done.returncode == 13


class Hostile(http.server.BaseHTTPRequestHandler):
    """A server that names what it should not, promises more than it sends, and sends callers elsewhere."""

    seen: list[tuple[str | None, str | None]]
    listing: str
    asked: threading.Event
    over: threading.Event

    def do_PROPFIND(self) -> None:
        self.seen.append((self.headers["Host"], self.headers["Authorization"]))
        if self.path.startswith("/away/") and not (self.headers["Host"] or "").startswith("localhost"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.listing.encode()
        self.send_response(207)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.endswith("/silent"):
            self.asked.set()
            self.over.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"evil")

    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


@contextmanager
def hostile(
    listing: str, asked: threading.Event | None = None
) -> Iterator[tuple[str, list[tuple[str | None, str | None]]]]:
    """Its address, and (host, password) of each listing that was asked for; `asked` is set when it falls silent."""
    seen: list[tuple[str | None, str | None]] = []
    over = threading.Event()
    handler = type(
        "Handler", (Hostile,), {"seen": seen, "listing": listing, "asked": asked or threading.Event(), "over": over}
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            over.set()
            server.shutdown()
            thread.join()


def listing(*entries: tuple[str, int], top: str = "/dav/", before: str = "") -> str:
    """A multistatus of `top` and (href, size) below it."""

    def one(href: str, inner: str) -> str:
        return f"<d:response><d:href>{href}</d:href><d:propstat><d:prop>{inner}</d:prop></d:propstat></d:response>"

    folder = "<d:resourcetype><d:collection/></d:resourcetype>"
    files = "".join(
        one(href, f"<d:resourcetype/><d:getcontentlength>{size}</d:getcontentlength>") for href, size in entries
    )
    return f'<?xml version="1.0"?>{before}<d:multistatus xmlns:d="DAV:">{one(top, folder)}{files}</d:multistatus>'


def test_a_hostile_server_writes_nothing_outside_and_passes_nothing_cut_as_whole(
    account: Desk, place: Path, tmp_path: Path
) -> None:
    names = ("/dav/../../escape", "/dav/..%2F..%2Fescape", "/dav/%2E%2E", "/dav/a%2Fb", "/dav/%00", "/etc/passwd")
    place.mkdir()
    before = tree(account.mount).keys()
    with hostile(listing(*((name, 4) for name in names), ("/dav/short", 4000), ("/dav/good", 4))) as (address, _):
        done = account.run("import", f"{address}/dav/", place)
    assert done.returncode == 22
    assert "short: " in done.stderr
    assert (place / "good").read_bytes() == b"evil"
    assert not (place / "short").exists()
    inside = str(place.relative_to(account.mount))
    assert not [name for name in tree(account.mount).keys() - before if not name.startswith(inside)]
    assert not list(tmp_path.rglob("escape"))


def test_no_entity_is_expanded_and_no_password_follows_a_redirect(account: Desk, place: Path) -> None:
    entities = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    with hostile(listing(("/dav/&b;", 4), before=entities)) as (address, _):
        done = account.run("import", f"{address}/dav/", place)
    assert "aaaaaaaa" not in done.stderr
    assert not [name for name in tree(account.mount) if "aaaaaaaa" in name]
    with hostile(listing(("/away/good", 4), top="/away/")) as (address, seen):
        command = ("import", f"{address}/away/", place, "--user", "alice", "--password-file", account.passphrase)
        account.run(*command)
    assert any(secret for _, secret in seen)
    assert not [host for host, secret in seen if secret and (host or "").startswith("localhost")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_silent_server_holds_up_no_end_and_leaves_nothing(
    account: Desk, place: Path, tmp_path: Path, number: signal.Signals
) -> None:
    asked, harmless = threading.Event(), tmp_path / "harmless"
    harmless.mkdir()
    with hostile(listing(("/dav/silent", 4)), asked) as (address, _):
        process = account.start("import", f"{address}/dav/", place)
        assert asked.wait(60)
        assert is_mounted(tmp_path)
        end(process.pid, number)
        process.wait()
        wait_until(lambda: not [line for line in processes() if str(tmp_path).encode() in line])
    # What is read cannot be unmounted by a process that is killed; the next one does it.
    assert number == signal.SIGKILL or not is_mounted(tmp_path)
    tell(account, "import", f"rclone:{harmless}", place / "x")
    assert not is_mounted(tmp_path)
    assert not (place / "silent").exists()
    assert number == signal.SIGKILL or not list(place.glob("silent*"))


def processes() -> Iterator[bytes]:
    """The command lines of all that run."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


# --- what else ------------------------------------------------------------------------------------------------------


def test_any_remote_that_rclone_knows_can_be_named(account: Desk, place: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"x")
    assert tell(account, "import", f"rclone::local:{tmp_path}/there", place).startswith("1 file, ")
    assert account.run("import", "rclone:nobody:", place / "x").returncode == 13
    assert account.run("import", f"rclone::local:{tmp_path}/nothing", place / "x").returncode == 22


@pytest.mark.parametrize(
    "address",
    ["https://alice:secret@host/", "http://example.org/", "https:///path", "https://host:99999/", "https://host/?a=b"],
)
def test_an_address_that_cannot_be_or_betrays_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        rclone.webdav(address, None, lambda: "")


def test_passwords_are_asked_for_on_a_terminal(account: Desk, place: Path, tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.mkdir()
    (plain / "file").write_bytes(b"x")
    encrypt(plain, sealed, "open sesame")
    terminal = Terminal(account, "import", "--rclone-crypt", sealed, place)
    try:
        terminal.expect("Password of the crypt remote: ")
        terminal.type("open sesame\n")
        terminal.expect("if it has one: ")
        terminal.type("\n")
        code, rest = terminal.end()
    finally:
        terminal.close()
    assert (code, "sesame" in rest) == (0, False), rest
    assert (place / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("401 Unauthorized", AccessDenied, "refuses user or password"),
        ("Propfind: x509: certificate signed by unknown authority", RemoteUnavailable, "does not trust"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", RemoteUnavailable, "nothing answers"),
        ("what nobody foresaw", RemoteUnavailable, "rclone says: what nobody foresaw"),
    ],
)
def test_what_rclone_says_is_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[BlobfsError], told: str
) -> None:
    program = tmp_path / "rclone"
    before = "2026/01/01 00:00:00 Failed to lsf with 2 errors: last error was: error in ListJSON: "
    program.write_text(f"#!/bin/sh\necho '{before}{said}.' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(kind, match=told) as refused, rclone.shown(rclone.configured("rclone:there:")):
        pass
    assert "ListJSON" not in str(refused.value)


def test_a_password_never_stands_where_others_can_read_it() -> None:
    source = rclone.webdav("https://host/path", "alice", lambda: "open sesame")
    assert "sesame" not in f"{source!r}{source.environment()}"
    assert rclone.webdav("davs://alice@[::1]:8443/x", None, lambda: "x").settings["url"] == "https://[::1]:8443/x"


def test_options_that_mean_nothing_are_refused(account: Desk, place: Path, tmp_path: Path) -> None:
    assert account.run("import", tmp_path, place, "--user", "alice").returncode == 2
    assert account.run("import", "https://host/", place, "--password2-file", account.passphrase).returncode == 2
    assert account.run("import", "https://host/", place, "--user", "alice").returncode == 2

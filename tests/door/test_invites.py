"""An invite on a terminal."""

from __future__ import annotations

from blobfs.commands.devices import draw_code
from blobfs.protocol import MAX_SEEN, Invite, pack_invite


def test_an_invite_of_a_few_devices_is_a_code_that_fits_a_usual_window() -> None:
    seen = tuple((f"{number:016x}", 1000) for number in range(3))
    text = pack_invite(Invite("https://files.example.org", "alice", "t" * 43, seen, "sha256//" + "A" * 43 + "="))
    lines = draw_code(text, 80).splitlines()
    assert 20 < len(lines) < 45
    assert "█" in "".join(lines) or "▄" in "".join(lines) or "\x1b" in "".join(lines)


def test_a_window_that_is_too_narrow_is_told_how_wide_it_has_to_be() -> None:
    seen = tuple((f"{number:016x}", 10**17) for number in range(MAX_SEEN))
    text = pack_invite(Invite("https://" + "h" * 1000, "u" * 128, "t" * 256, seen))
    assert "a window of 1" in draw_code(text, 80)
    assert len(draw_code(text, 0).splitlines()) > 80

"""A finding of `doctor`: what the mount's process and the command line tell each other, and a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from blobfs.values.documents import Json


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool | None
    """None: could not be checked."""
    text: str
    advice: str = ""
    paths: tuple[str, ...] = ()
    """Files that it is about, as paths in the mount; they go into no bundle."""

    def to_json(self) -> Json:
        """As it travels."""
        return asdict(self)

    @classmethod
    def of(cls, body: Json) -> Finding:
        """The inverse of `to_json`; a mount of an older version tells no paths."""
        paths = tuple(str(path) for path in body.get("paths") or ())
        return cls(body["name"], body["ok"], body["text"], body["advice"], paths)

"""Two edits of one document become one, field by field, or are told apart as a conflict of content.

Pure. Knows nothing of trees: whether a name is free, a parent alive or a move a cycle is for `plan.py`. Invariant: a
field that only one side changed has that side's value; nothing that either side wrote into a file is dropped without
`Merged.split` saying so.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from blobfs.values.documents import Document, Kind, Name

Value = TypeVar("Value")


class Side(enum.StrEnum):
    """Whose bytes a merged document has."""

    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class State:
    """A document as one side has it. That of a deleted one keeps its last names, so that it can be revived."""

    document: Document
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Merged:
    """What both sides become."""

    state: State
    content: Side
    """Whose attachment `state` has; the local one may have bytes that no id stands for yet."""
    split: bool = False
    """The content of both sides changed and differs: the local bytes go on as a document of their own."""


def merge(
    base: State | None, local: State, remote: State, *, content_changed: bool, same_content: bool = False
) -> Merged:
    """What `local` and `remote` become, which both came from `base`.

    Args:
        base: what both sides last agreed on; None when they never did.
        content_changed: the local attachment differs from the base's, whatever ids `local` has.
        same_content: the local attachment was found equal to the remote one, whatever ids `local` has.
    """
    if local.deleted and remote.deleted:
        return Merged(remote, Side.REMOTE)
    if local.deleted:
        # The arrival follows the base, so it is an edit; and an edit beats a deletion.
        return Merged(remote, Side.REMOTE)
    if remote.deleted:
        return Merged(local, Side.LOCAL)
    ours, theirs = local.document, remote.document
    old = base.document if base is not None and not base.deleted else None
    if old is None and ours.kind is not theirs.kind:
        return Merged(remote, Side.REMOTE, split=True)
    attachment, content, torn = _merge_content(old, ours, theirs, content_changed, same_content)
    texts, clash = _merge_mapping(old.content if old else {}, ours.content, theirs.content)
    names = _merge_names(old.names if old else (), ours.names, theirs.names, ours.kind)
    xattrs, _ = _merge_mapping(old.xattrs if old else {}, ours.xattrs, theirs.xattrs)
    document = replace(
        theirs,
        names=names,
        mode=_pick(old.mode if old else None, ours.mode, theirs.mode),
        uid=_pick(old.uid if old else None, ours.uid, theirs.uid),
        gid=_pick(old.gid if old else None, ours.gid, theirs.gid),
        mtime_ns=_merge_times(old, ours, theirs, content, torn),
        target=_pick(old.target if old else None, ours.target, theirs.target),
        xattrs=xattrs,
        attachment=attachment,
        content=theirs.content if clash else texts,
    )
    split = torn or clash
    return Merged(State(document, deleted=not names), Side.REMOTE if split else content, split)


def _merge_content(
    old: Document | None, ours: Document, theirs: Document, content_changed: bool, same_content: bool
) -> tuple[Any, Side, bool]:
    """(attachment, whose, whether both changed it differently)."""
    if same_content or not content_changed:
        return theirs.attachment, Side.REMOTE, False
    if old is not None and old.attachment == theirs.attachment:
        return ours.attachment, Side.LOCAL, False
    return theirs.attachment, Side.REMOTE, True


def _merge_times(old: Document | None, ours: Document, theirs: Document, content: Side, torn: bool) -> int:
    """The modification time goes with the bytes."""
    if torn:
        return theirs.mtime_ns
    if content is Side.LOCAL:
        return ours.mtime_ns
    return _pick(old.mtime_ns if old else None, ours.mtime_ns, theirs.mtime_ns)


def _pick(old: Value | None, ours: Value, theirs: Value) -> Value:
    """The side that changed; the server's where both did."""
    return ours if theirs == old else theirs


def _merge_mapping(
    old: Mapping[Any, Any], ours: Mapping[Any, Any], theirs: Mapping[Any, Any]
) -> tuple[dict[Any, Any], bool]:
    """(merged key by key, whether a key was changed to two different values)."""
    merged, clash = {}, False
    for key in sorted({*ours, *theirs}):
        before, mine, other = old.get(key, _ABSENT), ours.get(key, _ABSENT), theirs.get(key, _ABSENT)
        value = _pick(before, mine, other)
        # A value beats its removal: the rule for edits and deletions, in small.
        if value is _ABSENT and mine != before:
            value = mine
        clash = clash or (mine not in (before, other) and other not in (before, _ABSENT))
        if value is not _ABSENT:
            merged[key] = value
    return merged, clash


_ABSENT: Final = object()


def _merge_names(
    old: tuple[Name, ...], ours: tuple[Name, ...], theirs: tuple[Name, ...], kind: Kind
) -> tuple[Name, ...]:
    if ours in (theirs, old):
        return theirs
    if theirs == old:
        return ours
    if kind is Kind.DIRECTORY or not old:
        return theirs
    before, mine, other = set(old), set(ours), set(theirs)
    added_here, added_there = sorted(mine - before), other - before
    # A name that both sides moved is one move, and the server's came first.
    moved = min(len(before - mine - other), len(added_there))
    # Where each side gave up the names that the other one kept, nobody deleted the file: it keeps the server's.
    return tuple(sorted((before & mine & other) | added_there | set(added_here[moved:]))) or theirs

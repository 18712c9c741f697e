"""What the property tests of floor 0 draw from: valid documents and their parts, and the keys of one account."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from blobfs.values import documents, extents, keys
from blobfs.values.documents import ROOT, DocId, Document, Kind, Name
from blobfs.values.extents import Attachment, BlobId
from blobfs.values.revisions import DeviceId, Revision

KEYS = keys.derive_keys(keys.AccountId("00" * 16), bytes(range(32)))
OTHER_ACCOUNT = keys.derive_keys(keys.AccountId("11" * 16), bytes(range(32)))
OTHER_SECRET = keys.derive_keys(keys.AccountId("00" * 16), bytes(range(1, 33)))

doc_ids = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True).filter(lambda text: text != ROOT).map(DocId)
devices = st.integers(1, 5).map(lambda number: DeviceId(f"{number:016x}"))
counters = st.integers(1, 6) | st.integers(1, 10**18 - 1)
revisions = st.dictionaries(devices, counters, min_size=1).map(Revision.of)
blob_ids = st.binary(min_size=32, max_size=32).filter(any).map(lambda data: BlobId(data.hex()))
holes_and_ids = st.none() | blob_ids

names = st.binary(min_size=1, max_size=255).filter(documents.is_name)
parents = st.just(ROOT) | doc_ids
text = st.text(st.characters(codec="utf-8"), max_size=20)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(documents.MIN_INTEGER, documents.MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
times = st.integers(-documents.MAX_TIME_NS, documents.MAX_TIME_NS)
owners = st.integers(0, documents.MAX_OWNER)


@st.composite
def attachments(draw: st.DrawFn) -> Attachment:
    """Small ones with any ids, and one large enough for a tree."""
    padded = draw(st.booleans())
    size = draw(st.integers(0, 5 * extents.EXTENT) | st.just(1025 * extents.EXTENT))
    depth = extents.depth_for(size)
    count = -(-extents.extent_count(size) // extents.INLINE**depth)
    return Attachment(size, tuple(draw(st.lists(holes_and_ids, min_size=count, max_size=count))), depth, padded)


@st.composite
def valid_documents(draw: st.DrawFn) -> Document:
    doc_id, kind = draw(doc_ids), draw(st.sampled_from(Kind))
    places = draw(st.lists(st.builds(Name, parents, names), max_size=1 if kind is Kind.DIRECTORY else 4, unique=True))
    target = draw(st.binary(min_size=1, max_size=300).filter(lambda data: b"\0" not in data))
    attribute = st.binary(max_size=50).filter(lambda data: b"\0" not in data).map(lambda data: b"user." + data)
    return Document(
        doc_id=doc_id,
        kind=kind,
        names=tuple(sorted(place for place in places if place.parent != doc_id)),
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(owners),
        gid=draw(owners),
        rdev=draw(st.integers(0, documents.MAX_RDEV)),
        mtime_ns=draw(times),
        birth_ns=draw(times),
        target=target if kind is Kind.SYMLINK else b"",
        xattrs=draw(st.dictionaries(attribute, st.binary(max_size=80), max_size=4)),
        attachment=draw(st.none() | attachments()) if kind is Kind.FILE else None,
        content=draw(st.dictionaries(text, json_values, max_size=4)),
    )

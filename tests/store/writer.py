"""A process that changes a store until it is killed, and tells what was acknowledged.

    python -m tests.store.writer PATH SEED

Prints a line of JSON for an operation before it starts and `done` after it was acknowledged.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.extents import ROW
from blobfs.values.nodes import ROOT_INODE
from tests.store.conftest import KEYS, make, write


def steps(seed: int, start: int) -> list[tuple[str, str, int]]:
    """The operations of a run: what, on which name, a number."""
    source = random.Random(f"{seed}-{start}")
    kinds = ["create", "small", "row", "heavy", "cut", "rename", "unlink", "commit", "flush"]
    weights = [4, 6, 3, 3, 2, 2, 2, 1, 1]
    names = [f"f{number}" for number in range(6)]
    return [
        (kind, source.choice(names), source.randrange(1, 1 << 20)) for kind in source.choices(kinds, weights, k=100_000)
    ]


def apply(model: dict[str, bytearray], kind: str, name: str, number: int) -> None:
    """What an operation does, on a dict of bytes."""
    if kind == "create":
        model.setdefault(name, bytearray())
    elif kind in ("small", "row", "heavy") and name in model:
        length = {"small": 100, "row": ROW, "heavy": 3 * ROW}[kind]
        data, offset = model[name], number % (4 * ROW)
        data.extend(bytes(max(0, offset + length - len(data))))
        data[offset : offset + length] = bytes([number % 255 + 1]) * length
    elif kind == "cut" and name in model:
        del model[name][number % (5 * ROW) :]
    elif kind == "rename" and name in model:
        target = f"f{number % 6}"
        if target != name:
            model[target] = model.pop(name)
    elif kind == "unlink":
        model.pop(name, None)


def run(store: Store, kind: str, name: str, number: int) -> None:
    """The same, on a store."""
    nodes = {entry.name: entry.node for entry in store.tree.entries(ROOT_INODE, 0, 99)}
    node = nodes.get(name.encode())
    if kind == "create" and node is None:
        make(store, name.encode(), Kind.FILE)
    elif kind == "commit":
        store._ledger.commit()
        store.tick()
        if number % 2:
            store._settler.settle_all()
    elif kind == "flush":
        store.sync()
    elif node is None:
        return
    elif kind in ("small", "row", "heavy"):
        length = {"small": 100, "row": ROW, "heavy": 3 * ROW}[kind]
        write(store, node.inode, number % (4 * ROW), bytes([number % 255 + 1]) * length)
    elif kind == "cut" and number % (5 * ROW) < node.size:
        store.attachments.resize(node.inode, number % (5 * ROW), 30)
    elif kind == "rename" and f"f{number % 6}" != name:
        replaced = store.tree.rename(ROOT_INODE, name.encode(), ROOT_INODE, b"f%d" % (number % 6), 30)
        if replaced is not None:
            store.tree.purge(replaced.inode)
    elif kind == "unlink":
        store.tree.purge(store.tree.unlink(ROOT_INODE, name.encode(), 30).inode)


def main() -> None:
    """Open the store and go on until killed."""
    path, seed, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = Store.open(path, KEYS)
    for step in steps(seed, start):
        print(json.dumps(step), flush=True)
        run(store, *step)
        print("done", flush=True)


if __name__ == "__main__":
    main()

"""The catalog: the SQL database of who may do what, which blobs exist, every document and the change sequence.

`Catalog` (engine.py) opens it and hands out transactions; schema.py explains every column; the other modules are
functions on a connection, grouped by noun. Must not know HTTP or where blob bytes are kept. Invariant: what a
transaction acknowledged survives power loss, and an account's sequence grows in the order of commits.
"""

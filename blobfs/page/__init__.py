"""A folder in the browser: a page on loopback, served by the process that holds the mount.

`browsing` listens, `peers` and `guard` say who may ask, `wire` speaks HTTP, `site` finds what answers, and `views`
draws it.
What is shown is what the control socket answers (`blobfs.answers`), and bytes are read as the mount reads them.
Invariants: nothing runs before somebody asks for a link; no key and no sealed byte is here; names and bytes are other
people's, and reach the browser escaped, as pictures of a few kinds, or as plain text.
"""

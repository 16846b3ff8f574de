"""Leveret's own framing: u32 length and one msgpack array. Its normative text is `docs/native-protocol.md`.

- `layouts`: every frame's type number, sender and fields, in one table
- `fields`: the field types, and what is checked of each
- `framing`: frames to bytes and back
- `connection`: a connection of either role, without I/O
- `tags`: sets of tags

A frame in Python is a list `[type, field, ...]` as `layouts` lists the fields; no object per message.
"""

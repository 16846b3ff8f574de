"""Leveret's own framing: u32 length and one msgpack array. Its normative text is `docs/native-protocol.md`."""

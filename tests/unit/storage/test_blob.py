import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.storage.blob import (
    CHAIN_START,
    HEADER_BYTES,
    Blob,
    chain_hash,
    decode_blob,
    encode_blob,
    iter_records,
    pack_record,
)
from leveret.storage.engine import Corrupt

# Written down once, by hand from docs/storage-format.md: a store written today must be readable for ever.
VECTOR = bytes.fromhex(
    "4c565254"  # magic
    "0001"  # version
    "0040"  # header size
    "00000007"  # group
    "add037f9"  # CRC32C
    "0000000000000003"  # epoch
    "000000000000002a"  # idx
    "000102030405060708090a0b0c0d0e0f"  # previous
    "0000000d"  # payload length
    "000000000000000000000000"  # reserved
    "0100000003616263"  # record: type 1, "abc"
    "ff00000000"  # record: type 255, empty
)
PREVIOUS = bytes(range(16))
PAYLOAD = pack_record(1, b"abc") + pack_record(255, b"")


class TestFormat:
    def test_the_bytes_are_those_of_the_document(self) -> None:
        assert encode_blob(7, 3, 42, PREVIOUS, PAYLOAD) == VECTOR
        assert decode_blob(VECTOR) == Blob(7, 3, 42, PREVIOUS, PAYLOAD)
        assert list(iter_records(PAYLOAD)) == [(1, 5, 8), (255, 13, 13)]
        assert len(VECTOR) == HEADER_BYTES + len(PAYLOAD)

    def test_the_chain_hash_is_that_of_the_document(self) -> None:
        assert chain_hash(VECTOR).hex() == "4c8b4273d941bff9eec2fad3175189b3"

    @given(
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=300),
    )
    def test_what_is_encoded_is_decoded(self, group: int, epoch: int, idx: int, payload: bytes) -> None:
        assert decode_blob(encode_blob(group, epoch, idx, CHAIN_START, payload)) == Blob(
            group, epoch, idx, CHAIN_START, payload
        )

    @given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))))
    def test_what_is_framed_is_found(self, records: list[tuple[int, bytes]]) -> None:
        payload = b"".join(pack_record(record_type, body) for record_type, body in records)
        assert [(found, payload[start:end]) for found, start, end in iter_records(payload)] == records


class TestDamage:
    def test_every_flipped_bit_is_noticed(self) -> None:
        for bit in range(len(VECTOR) * 8):
            damaged = bytearray(VECTOR)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Corrupt):
                decode_blob(bytes(damaged))

    def test_every_cut_and_every_added_byte_is_noticed(self) -> None:
        for length in range(len(VECTOR)):
            with pytest.raises(Corrupt):
                decode_blob(VECTOR[:length])
        with pytest.raises(Corrupt, match="holds 14 bytes of payload, its header says 13"):
            decode_blob(VECTOR + b"\0")

    def test_a_newer_version_is_called_newer(self) -> None:
        with pytest.raises(Corrupt, match="written by a newer Leveret: version 2, this one reads up to 1"):
            decode_blob(VECTOR[:4] + b"\0\2" + VECTOR[6:])

    def test_a_version_that_never_was_is_no_newer_one(self) -> None:
        with pytest.raises(Corrupt, match="version 0 and a header of 64 bytes, which never existed"):
            decode_blob(VECTOR[:4] + b"\0\0" + VECTOR[6:])

    def test_something_else_is_not_a_blob(self) -> None:
        with pytest.raises(Corrupt, match="not a blob: it starts with 25504446"):
            decode_blob(b"%PDF" + VECTOR[4:])

    def test_a_record_that_is_cut_off_is_noticed(self) -> None:
        for length in set(range(len(PAYLOAD))) - {0, 8}:  # where a record ends there is nothing to notice
            with pytest.raises(Corrupt):
                list(iter_records(PAYLOAD[:length]))

    def test_records_are_found_up_to_the_damage(self) -> None:
        found = iter_records(PAYLOAD[:-1])
        assert next(found) == (1, 5, 8)
        with pytest.raises(Corrupt, match="at byte 8 of the payload is cut off after 4 bytes"):
            next(found)

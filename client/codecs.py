"""Bodies by content type: what `Message.json` and its like encode, and `message.decode()` decodes.

`application/json` and every `...+json` is JSON, `application/msgpack` (and `application/x-msgpack`) msgpack,
`text/...` text in the charset of the content type (UTF-8), `application/octet-stream` or no content type at
all bytes. `register_decoder` adds further types, or another decoder for one of these.
"""

import json
from collections.abc import Callable
from typing import Any, Final

import msgpack

from .errors import Undecodable

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
TEXT: Final = "text/plain; charset=utf-8"

TIMESTAMP_AS_DATETIME = 3  # msgpack's code for: timestamps are aware datetimes
_NO_ENCODING = ("", "identity", "binary")  # Celery and kombu say "binary"

Decoder = Callable[[bytes], Any]

_decoders: dict[str, Decoder] = {}  # what users have registered, by content type


def register_decoder(content_type: str, decode: Decoder) -> None:
    """Have `message.decode()` call `decode(body)` for a content type, in all of this process.

        leveret.register_decoder("application/json", orjson.loads)
        leveret.register_decoder("application/x-protobuf; proto=Order", Order.FromString)

    The content type is compared as it is, first with its parameters, then without them.
    """
    _decoders[content_type.strip().lower()] = decode


# Encoding


def encode_json(value: object, default: Callable[[Any], Any] | None) -> bytes:
    """Compact, in UTF-8. Raises TypeError or ValueError for what JSON does not have, such as NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default)
    return text.encode()


def encode_msgpack(value: object, default: Callable[[Any], Any] | None) -> bytes:
    """An aware datetime becomes a timestamp. Raises TypeError, ValueError or OverflowError."""
    encoded: bytes = msgpack.packb(value, datetime=True, default=default)
    return encoded


# Decoding


def decode_body(
    body: bytes,
    content_type: str | None,
    content_encoding: str | None,
    into: Callable[[Any], Any] | None,
) -> Any:
    """See `IncomingMessage.decode`. Raises Undecodable only."""
    decode = _find_decoder((content_type or "").strip().lower(), (content_encoding or "").strip().lower())
    what = f"is no valid {content_type or 'bytes'}"
    try:
        value = decode(body)
        what = "does not become what it is decoded into"
        return value if into is None else into(value)
    except Exception as error:  # whatever a user's decoder raises
        raise Undecodable(f"the body of {len(body)} bytes {what}: {type(error).__name__}: {error}") from error


def _find_decoder(content_type: str, content_encoding: str) -> Decoder:
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.rstrip()
    registered = _decoders.get(content_type) or _decoders.get(media_type)
    if registered is not None:
        return registered
    charset = _charset(parameters, content_encoding)
    if media_type == JSON or media_type.endswith("+json"):
        return lambda body: json.loads(body if charset is None else body.decode(charset))
    if media_type in (MSGPACK, "application/x-msgpack"):
        return _decode_msgpack
    if media_type.startswith("text/"):
        return lambda body: body.decode(charset or "utf-8")
    if media_type in ("", "application/octet-stream"):
        return bytes
    raise Undecodable(
        f"nobody knows how to decode content type {content_type!r}: read message.body, "
        "or call leveret.register_decoder"
    )


def _charset(parameters: str, content_encoding: str) -> str | None:
    """From the content type; else from the content encoding, where Celery and kombu have it."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return _known_charset(value.strip().strip('"'), "charset")
    return None if content_encoding in _NO_ENCODING else _known_charset(content_encoding, "content_encoding")


def _known_charset(name: str, what: str) -> str:
    try:
        "x".encode(name)
    except (LookupError, ValueError):
        raise Undecodable(
            f"{what} {name!r} is no charset: undo the encoding of message.body yourself, then decode it"
        ) from None
    return name


def _decode_msgpack(body: bytes) -> Any:
    # Keys of any type: what `Message.msgpack` takes comes back.
    return msgpack.unpackb(body, timestamp=TIMESTAMP_AS_DATETIME, strict_map_key=False)

"""A value for each of the 14 properties, and a header of each type that clients send."""

from datetime import UTC, datetime
from decimal import Decimal

from adapters.face import Headers, Properties

ALL = Properties(
    content_type="application/json",
    content_encoding="gzip",
    headers={"h": "v"},
    delivery_mode=2,
    priority=7,
    correlation_id="correlation ✓",
    reply_to="reply-queue",
    expiration="60000",
    message_id="id-1",
    timestamp=1_700_000_000,
    type="order.created",
    user_id="guest",
    app_id="tests",
    cluster_id="cluster",
)

# In the order of their keys, because aio-pika sends them so.
HEADERS: Headers = {
    "32 bits": 2**31 - 1,
    "64 bits": -(2**63),
    "binary": b"\x00\xff\xfe",
    "empty list": [],
    "empty text": "",
    "false": False,
    "fraction": 2.5,
    "list": [1, "two", [True, None], {"four": 4}],
    "long text": "x" * 70_000,
    "negative": -1,
    "price": Decimal("123.45"),
    "table": {"empty": {}, "nested": {"deeper": {"x": "y"}}},
    "text": "plain and ünïcode ✓",
    "true": True,
    "void": None,
    "when": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    "zero": 0,
}

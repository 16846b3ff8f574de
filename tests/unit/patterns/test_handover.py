"""The message that goes on in the place of another one."""

from typing import cast

import pytest

from leveret import DeliveryMode, IncomingMessage
from leveret.client.settler import Settler
from leveret.patterns.handover import successor
from leveret.protocol.amqp.properties import BasicProperties, encode_properties


@pytest.mark.parametrize(("came", "goes"), [(2, 2), (1, 1), (None, 1), (0, 1), (3, 1)])
def test_it_is_as_persistent_as_the_first_one(came: int | None, goes: int) -> None:
    """Other people's publishers say what they like; to the broker only 2 is persistent."""
    properties = encode_properties(BasicProperties(delivery_mode=came))
    message = IncomingMessage(cast("Settler", None), 1, 0, "", "q", properties, b"")
    assert successor(message).delivery_mode == DeliveryMode(goes)

"""What a `ServerConnection` reports: plain tuples with a number first, because one is made per message.

(PUBLISH, channel_id, exchange, routing_key, mandatory, immediate, properties, bodies)
                                         one or some in a row that differ in their bodies only
(ACK, channel_id, delivery_tag, multiple)
(METHOD, channel_id, method)             any other method, channel.open and channel.close included
(CHANNEL_FAILED, channel_id, SoftError)  answer with `close_channel`; its frames are swallowed already
(START_OK, mechanism, response, client_properties)   answer with `tune`, `send_close` or `ignore_peer`
(OPEN, vhost)                                        answer with `open_ok` or `send_close`
(CLOSE, reply_code, reply_text)                      answer with `close_ok`
(CLOSE_OK,)                                          our close was answered
(FAILED, HardError)                                  answer with `send_close`
"""

from typing import Any, TypeAlias

Event: TypeAlias = tuple[Any, ...]

PUBLISH, ACK, METHOD, CHANNEL_FAILED, START_OK, OPEN, CLOSE, CLOSE_OK, FAILED = range(9)

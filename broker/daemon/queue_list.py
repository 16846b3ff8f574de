"""`/queues`: the queues and what is in them, as a JSON array with a line per queue.

It may be long, so it comes in pieces, and others run between them: queues may come and go meanwhile.
"""

import json
from collections.abc import AsyncIterator, Mapping

from .queue_metrics import VhostFacts, walk

COLUMNS = ("vhost", "name", "ready", "unacked", "consumers")
PIECE_CHARACTERS = 1 << 15


async def queue_list(vhosts: Mapping[str, VhostFacts]) -> AsyncIterator[bytes]:
    text, separator = "[", "\n"
    async for vhost, queue in walk(vhosts):
        values = (vhost.name, queue.name, queue.message_count, queue.unacked_count, queue.consumer_count)
        text += separator + json.dumps(dict(zip(COLUMNS, values, strict=True)))
        separator = ",\n"
        if len(text) >= PIECE_CHARACTERS:
            yield text.encode()
            text = ""
    yield (text + "\n]\n").encode()

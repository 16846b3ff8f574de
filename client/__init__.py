"""The asyncio SDK over the native framing."""

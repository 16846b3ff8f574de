"""Queues: what waits in them, who gets it, and the other ways in which a message ends."""

"""Channels: what a client can do, once for both wires; confirms, transactions, unacked deliveries."""

"""AMQP 0-9-1: codec, content properties and the server's connection state, all without I/O."""

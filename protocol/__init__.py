"""The wire, without I/O: AMQP 0-9-1 (`protocol.amqp`), the native framing (`protocol.native`), and what both
share.

Nothing here opens a socket, reads a clock or knows storage. Bytes go in; events and bytes come out.
"""

"""The load: generators that take as little as possible of the machine that they share with the broker.

A `hand` is a process, seen from outside; `worker` is what it does inside: it drives `publisher`s and
`consumer`s, each a raw socket (`link`) that speaks AMQP 0-9-1 (`amqp_link`) or the native framing
(`native_link`). Publishes are ready-made bytes (`ring`) that only get a number and a time (`body`); what is
delivered is not decoded but searched for the mark that each body begins with. Every message is counted: none
may be lost, doubled or out of order.
"""

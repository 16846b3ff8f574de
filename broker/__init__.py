"""The broker: the domain (vhost, exchange, queue, message), channel semantics, the two wires' sessions, the
daemon.
"""

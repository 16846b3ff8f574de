"""Vhosts: the topology (exchanges, queues, bindings), its rules and texts, and routing through it."""

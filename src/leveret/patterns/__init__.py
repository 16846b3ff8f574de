"""What people build out of queues again and again, ready to use: one pattern per module.

Each module says in its docstring what it does, what it guarantees and what it leaves to you, and has a
program that runs in `examples/patterns/`. Import the one you need, as in
`from leveret.patterns.retry import Retry`: this package imports none of them by itself, because some need
more than the SDK does.

A pattern stands on the SDK's public names only: read one, copy it, change it.
"""

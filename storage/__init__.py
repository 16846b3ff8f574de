"""The log: an append-only sequence of fsynced blobs behind one engine interface.

Storage sees opaque bytes. It knows no exchange, queue or message.
"""

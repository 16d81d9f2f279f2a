"""Byte and text formats that several layers share: one encoder and one decoder of each.

Decides what is well formed; never what it is used for. Does no I/O, keeps no state but bounded
caches of pure functions, and imports nothing of this package but ``params`` and ``errors``.
"""

"""QUIC: everything from datagrams to streams, as another way to carry a connection.

:mod:`connection` is the machine that the rest of the package talks to: datagrams in, events and
datagrams out, without await, clock or task. Under it, :mod:`engine` keeps the handshake and the
keys of aioquic; packets, acknowledgements, recovery, windows and streams are this package's own.
:mod:`transport` drives all of it under trio, with an :mod:`endpoint` for each UDP socket and a
:mod:`link` for each connection.
"""

"""QUIC: everything from datagrams to streams, as another way to carry a connection.

:mod:`connection` is what the rest of the package talks to: datagrams in, events and datagrams out,
without await, clock or task. It joins libp2p's identities and streams to a QUIC v1 connection of
our own (:mod:`machine`). :mod:`transport` drives all of it under trio, with an :mod:`endpoint` for
each UDP socket and a :mod:`link` for each connection. :mod:`strangers` decides what is answered to
datagrams of no connection.
"""

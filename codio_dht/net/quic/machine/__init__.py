"""A QUIC v1 connection as a state machine of our own: datagrams in, events and datagrams out.

No await, no clock, no socket, and nothing of libp2p but the judging of certificates, which the
caller does. :class:`~codio_dht.net.quic.machine.machine.Machine` is all that the rest of the
package uses. Under it, from the bottom up:

- :mod:`frames`, :mod:`parameters`: how frames and transport parameters are written and read;
- :mod:`key_phases`: packets of an established connection, and changes of their keys;
- :mod:`spaces`: numbers, what was sent and received, and what is acknowledged;
- :mod:`recovery`: round trips, losses, congestion and pace;
- :mod:`buffers`, :mod:`flow`: the data of streams, and how much of it each side may send;
- :mod:`ids`, :mod:`paths`: the names and the addresses under which a connection is found;
- :mod:`handshake`: TLS 1.3, which is a library's; the only module that touches that library;
- :mod:`receiving`: which packets are genuine, and what their frames change;
- :mod:`building`, :mod:`drafts`: which frames go into the next datagrams.

Whatever a peer breaks is raised inside as :class:`~codio_dht.net.quic.machine.errors.QuicError`,
and ends in a closed connection.
"""

"""Our own libp2p stack, sans I/O: bytes in, events and bytes out.

From the wire upwards: :mod:`multistream` agrees on a protocol, :mod:`noise` authenticates and
encrypts (:mod:`tls` is the other :class:`~codio_dht.net.stack.security.SecurityLayer`),
:mod:`yamux` carries many streams over it (any :class:`~codio_dht.net.stack.muxer.Muxer` may),
:mod:`streams` negotiates a protocol on each stream and runs the handlers, and :mod:`connection`
stacks them. (:mod:`codio_dht.net.quic` is all of that below the streams in one.) Nothing here
awaits, reads a clock, opens a socket or starts a task: time is the argument ``now``, and one pump
task per connection does ``recv -> receive -> data_to_send -> send``.

Whatever a peer sends, the only error a layer raises is :class:`~codio_dht.errors.ProtocolError`.
"""

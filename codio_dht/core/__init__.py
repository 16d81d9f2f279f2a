"""All Kademlia rules, as plain synchronous objects.

Nothing in here does I/O, awaits, reads a clock or draws randomness: time comes in as ``now`` and
randomness as ``rng``. Two clocks, two types: ``Monotonic`` for timeouts, ``UnixTime`` for whatever
is stored or sent (:mod:`codio_dht.core.clock`).
"""

"""libp2p: the ``Host`` port and its implementations. Knows nothing of Kademlia."""

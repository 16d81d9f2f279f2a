"""codio_dht: a libp2p Kademlia DHT node (being written)."""

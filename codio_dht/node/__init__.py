"""Runs ``core`` on ``net`` and ``store`` under trio. Holds no Kademlia rule of its own."""

"""The simulator: thousands of nodes of the real ``core`` and ``wire`` on a virtual clock.

Nothing here decides a rule of Kademlia, and nothing waits: time is the event queue's, randomness
comes from the scenario's seed, and a run with the same scenario and seed is the same to the last
bit. docs/simulation.md says what is simulated and what is not.
"""

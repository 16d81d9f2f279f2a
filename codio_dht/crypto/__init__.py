"""Keys, signatures, and what is signed with them: bytes to values and back, no I/O."""

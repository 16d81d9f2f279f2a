"""Bytes to the messages of ``core`` and back: frames, codec, replies that fit. Decides nothing."""

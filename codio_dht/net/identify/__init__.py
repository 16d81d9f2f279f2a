"""Identify and identify push: what peers say of themselves, and what we say of ourselves."""

"""Dialling: which addresses are tried, in which order, when, and how many at once.

Also decides what an address means to a transport, and which addresses are left alone after a
failure. Knows no protocol above a connection.
"""

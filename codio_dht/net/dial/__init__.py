"""Dialling: what an address means to a transport, which addresses are tried, in which order and
when, how many at once, and which are left alone after a failure. Knows no protocol above a
connection.
"""

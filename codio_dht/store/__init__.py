"""Durable state: executes what ``core.records`` asks for; decides nothing, knows no network."""

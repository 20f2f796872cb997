"""Contracts of events: their schemas, what may change between versions, and the registry that holds them."""

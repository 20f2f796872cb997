"""Faults: what the network and the machine may do to the bus, made to happen."""

"""The transport in memory: the twin of the one on NATS, for tests and simulation."""

from sojourn.bus.memory.transport import MemoryTransport

__all__ = ["MemoryTransport"]

"""The transport on NATS JetStream."""

from sojourn.bus.nats.transport import NatsTransport, connect_nats

__all__ = ["NatsTransport", "connect_nats"]

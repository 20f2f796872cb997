"""The bus: events, their envelopes and subjects, the transport, delivery and dead letters."""

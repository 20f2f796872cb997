"""The embedded nats-server: started by its first user, shared through a folder, stopped with the last."""

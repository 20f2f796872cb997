"""Delivery: one worker's partitions, keys and handlers, from the consumer to the ack."""

"""Personal data: fields that are encrypted under a key of each customer's own, so that it can be destroyed."""

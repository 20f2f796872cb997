"""Journeys: what is known of one customer, as a fold of the log."""

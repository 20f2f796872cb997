"""Proofs: the same thing small in every test run, and at full size with ``make prove``."""

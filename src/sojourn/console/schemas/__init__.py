"""What `sojourn schemas` does, a module for each part of it. The commands themselves are in ``commands/schemas.py``."""

"""The command line: puts everything together."""

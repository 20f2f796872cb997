"""Agents: classes that follow customers and act."""

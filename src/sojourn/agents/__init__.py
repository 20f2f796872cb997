"""Agents: classes that follow customers and act."""

from sojourn.agents.agent import Agent, agent, on
from sojourn.agents.context import Context
from sojourn.agents.loading import load_agents
from sojourn.agents.processor import AgentProcessor

__all__ = ["Agent", "AgentProcessor", "Context", "agent", "load_agents", "on"]

"""The orchestrator: sagas that coordinate several agents over days. To come; see docs/design.md, section 8."""

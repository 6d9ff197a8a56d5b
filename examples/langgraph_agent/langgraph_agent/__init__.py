"""A LangGraph agent for the fleet."""

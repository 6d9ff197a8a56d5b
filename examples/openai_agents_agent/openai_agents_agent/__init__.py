"""An agent of the OpenAI Agents SDK for the fleet."""

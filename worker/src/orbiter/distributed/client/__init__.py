"""Clients: submit tasks, follow them, and control workers."""

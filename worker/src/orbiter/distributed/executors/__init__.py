"""Execution backends: given a started task, emit its events and return its result."""

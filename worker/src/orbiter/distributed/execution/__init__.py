"""Execution: how a claimed task is run, stopped, counted and, after an error, run again."""

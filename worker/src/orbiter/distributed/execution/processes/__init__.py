"""Executor processes: user code runs in processes of its own, which know neither Redis nor Temporal."""

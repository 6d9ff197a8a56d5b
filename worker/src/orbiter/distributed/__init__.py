"""Distributed execution of agent tasks on Redis Streams."""

from __future__ import annotations

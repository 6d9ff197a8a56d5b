"""Writes what a test's play has made of its variables to a file here: as `copy` does on a host, without its module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The action."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("content", "dest"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write it: text as it is, and anything else as JSON."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        content = self._task.args["content"]
        Path(self._task.args["dest"]).write_text(content if isinstance(content, str) else json.dumps(content))
        return result | {"changed": False}

"""``python -m benchmarks.peer_programs MODULE COMMAND NUMBER``: tasks have the names that workers know them by."""

import sys
from importlib import import_module

from benchmarks.peer_programs import counted

if __name__ == "__main__":
    counted.run(import_module(f"benchmarks.peer_programs.{sys.argv[1]}"))

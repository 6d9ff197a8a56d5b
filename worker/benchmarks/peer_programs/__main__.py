"""``python -m benchmarks.peer_programs MODULE submit|idle NUMBER``: tasks have the names that workers know them by."""

import sys
from importlib import import_module

from benchmarks.peer_programs import counted

if __name__ == "__main__":
    module = import_module(f"benchmarks.peer_programs.{sys.argv[1]}")
    counted.run(module.opened, module.submit_many, module.submit_moment)

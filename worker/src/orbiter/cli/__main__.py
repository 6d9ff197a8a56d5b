"""``python -m orbiter.cli`` is ``orbiter``."""

from orbiter.cli import main

main(prog_name="orbiter")

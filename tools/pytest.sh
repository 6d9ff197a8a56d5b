#!/usr/bin/env bash
# Runs tests; the few that fail run once more, one after another and with nothing beside them: what a busy machine made too late
# passes then, what is broken does not. Whatever failed at first is in the log, and `make test` ends with it.
# Usage: pytest.sh ARGUMENT...
set -uo pipefail

pytest "$@"
status=$?
((status == 1)) || exit "$status"

printf '\n--> what failed runs once more, alone\n'
pytest "$@" -n 0 --last-failed --last-failed-no-failures none --maxfail 3

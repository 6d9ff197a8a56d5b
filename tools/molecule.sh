#!/usr/bin/env bash
# Runs molecule scenarios two at a time, each lane on a network of its own. A scenario's output comes in one piece when it
# has ended; at the end there is a line a scenario. Usage: molecule.sh [SCENARIO...]; without one, all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=.cache/molecule-logs

if [ "${1:-}" = --lane ]; then
  scenario=$2 verdict=ok
  echo "--> molecule $scenario: begins"
  ORBITER_TEST_NET=172.28.$((78 + LANE)) ORBITER_TEST_NAME=molecule$LANE \
    molecule test --scenario-name "$scenario" --no-command-borders >"$logs/$scenario.log" 2>&1 </dev/null || verdict=FAILED
  printf 'molecule %-12s %-6s %4d s\n' "$scenario" "$verdict" "$SECONDS" >"$logs/$scenario.verdict"
  cat "$logs/$scenario.log" "$logs/$scenario.verdict"
  [ "$verdict" = ok ]
  exit
fi

if [ $# -eq 0 ]; then
  mapfile -t all < <(printf '%s\n' molecule/*/molecule.yml | cut -d/ -f2)
  set -- "${all[@]}"
fi
mkdir -p "$logs"
rm -f "$logs"/*
images/testhost/build.sh # once, before both lanes want it
failed=0
printf '%s\n' "$@" | xargs --max-procs=2 --max-args=1 --process-slot-var=LANE tools/molecule.sh --lane || failed=1
printf '\n'
cat "$logs"/*.verdict
exit "$failed"

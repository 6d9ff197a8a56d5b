#!/usr/bin/env bash
# Runs molecule scenarios three at a time, as two leave a third of two cores idle; each lane on a network of its own. A
# scenario's output comes in one piece when it has ended; at the end there is a line a scenario.
# Usage: molecule.sh [SCENARIO...]; without one, those for every day, and with NIGHTLY=1 all of them.
# Those for every day take a third of the time of all: units and stacks, upgrades and roll-backs, Redis with its users, TLS,
# backups. What they leave out, and the cases marked nightly, run by `make test-nightly`, and by a job each in public.
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

# The longest first, so that the lanes end at about the same time; one that is not named here comes before them all.
longest="compose redis_ha redis valkey default rolling temporal controller upgrade drain scale monitoring"
nightly=" controller drain monitoring redis_ha scale temporal upgrade valkey "
if [ $# -eq 0 ]; then
  mapfile -t known < <(printf '%s\n' molecule/*/molecule.yml | cut -d/ -f2)
  for scenario in "${known[@]}"; do [[ " $longest " == *" $scenario "* ]] || set -- "$@" "$scenario"; done
  # shellcheck disable=SC2086  # a word each
  for scenario in $longest; do
    [ ! -e "molecule/$scenario" ] || [[ $nightly == *" $scenario "* && ! ${NIGHTLY:-} ]] || set -- "$@" "$scenario"
  done
fi
mkdir -p "$logs"
rm -f "$logs"/*
rm -rf .cache/modules # those of other times
# Once, before all lanes want them.
{ images/testhost/build.sh bookworm && images/testhost/ubuntu.sh && images/testbase/build.sh; } &
{ images/testhost/build.sh trixie && images/testhost/docker.sh trixie; } &
wait -n
wait -n
failed=0
printf '%s\n' "$@" | xargs --max-procs=3 --max-args=1 --process-slot-var=LANE tools/molecule.sh --lane || failed=1
printf '\n'
cat "$logs"/*.verdict
exit "$failed"

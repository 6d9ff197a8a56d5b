#!/usr/bin/env bash
# Runs make targets one after another, all of them, and ends with one line a part; below it stand its tests that failed, also
# those that passed when they ran once more (pytest.sh), each with the end of its error. Usage: verdicts.sh TARGET...
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

mkdir -p .cache/log
verdicts=()
passed=0
failed=0
for part in "$@"; do
  printf '\n==> make %s\n' "$part"
  began=$SECONDS
  if make --no-print-directory "$part" 2>&1 | tee ".cache/log/$part.log"; then
    verdict=ok
    passed=$((passed + 1))
  else
    verdict=FAILED
    failed=$((failed + 1))
  fi
  failures=$(python3 tools/reasons.py ".cache/log/$part.log" | sed 's/^/    /')
  [[ $verdict == ok && $failures ]] && failures="    failed at first, passed alone:"$'\n'"$failures"
  verdicts+=("$(printf '%-20s %-6s %4d s' "$part" "$verdict" $((SECONDS - began)))" ${failures:+"$failures"})
done

printf '\n'
printf '%s\n' "${verdicts[@]}" "$passed passed, $failed failed"
((failed == 0))

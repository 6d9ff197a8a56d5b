#!/usr/bin/env bash
# Runs make targets one after another, all of them, and ends with one line a part. Usage: verdicts.sh TARGET...
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

verdicts=()
passed=0
failed=0
for part in "$@"; do
  printf '\n==> make %s\n' "$part"
  began=$SECONDS
  if make --no-print-directory "$part"; then
    verdict=ok
    passed=$((passed + 1))
  else
    verdict=FAILED
    failed=$((failed + 1))
  fi
  verdicts+=("$(printf '%-20s %-6s %4d s' "$part" "$verdict" $((SECONDS - began)))")
done

printf '\n'
printf '%s\n' "${verdicts[@]}" "$passed passed, $failed failed"
((failed == 0))

#!/usr/bin/env bash
# Shows the fleet in a box at work: 100 tasks of an agent with two tools, one of them followed live.
set -euo pipefail
cd "$(dirname "$0")/.."
# The URL travels by environment: a password on a command line could be read by everyone on this machine.
. tools/demo_env.sh

step() { printf '\n==> %s\n' "$*"; }

step '100 tasks of an agent with two tools (model "test": no network, no key)'
orbiter task submit "Fleets of agents on plain hosts" --agent examples/demo_agent/agent.json --count 100 --wait

step 'One task, followed live'
orbiter task submit "Fleets of agents on plain hosts" --agent examples/demo_agent/agent.json --stream

step 'What is left in the queue'
# redis-cli reads its password from the environment too.
REDISCLI_AUTH=$(tr -d '\n' <.cache/demo/redis_password)
export REDISCLI_AUTH
demo_redis=(redis-cli --user admin --tls --cacert .cache/demo/redis-tls/ca.pem -h 172.28.77.10)
printf 'waiting: %s, claimed: %s\n' \
  "$("${demo_redis[@]}" XLEN orbiter:tasks)" \
  "$("${demo_redis[@]}" XPENDING orbiter:tasks orbiter:tasks:group | head -1)"

step 'Who did the work: orbiter worker list'
sleep 2  # a worker's heartbeat tells news within a second
orbiter worker list

cat <<'END'

What to try next:
  . tools/demo_env.sh                                     talk to the demo's Redis from this shell
  orbiter task list                                       the tasks that just ran
  ssh worker1:  docker exec -it orbiter-demo-worker1 bash, then: journalctl -u 'orbiter-worker@*'
  ansible-playbook site.yml -e worker_instances=3         scale every host to three instances
  make demo-down                                          remove all of it
END

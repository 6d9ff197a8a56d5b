#!/usr/bin/env bash
# Makes images/compose/docker-compose.yml, the stack to use by hand, from the worker role's template. Usage: compose.sh [FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
ansible localhost --inventory localhost, --connection local --module-name ansible.builtin.template --args \
  "src=roles/worker/templates/compose/docker-compose.yml.j2 dest=${1:-images/compose/docker-compose.yml} mode=0644" \
  --extra-vars '{"__worker_compose_by_hand": true, "worker_instances": 2, "worker_stop_timeout": 30, "ansible_python_interpreter": "python3"}' >/dev/null

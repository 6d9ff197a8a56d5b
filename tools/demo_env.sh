# shellcheck shell=bash
# Source this from the top of the checkout: `orbiter` and `ansible-playbook` of .venv, the demo's Redis and its inventory.
export PATH="$PWD/.venv/bin:$PATH"
export ANSIBLE_INVENTORY="$PWD/inventories/demo"
ORBITER_REDIS_URL="rediss://admin:$(tr -d '\n' <.cache/demo/redis_password)@172.28.77.10:6379/0?ssl_ca_certs=$PWD/.cache/demo/redis-tls/ca.pem"
export ORBITER_REDIS_URL
# With this checkout as orbiter.fleet. Not for all commands: ansible-galaxy would take the collection for installed.
ORBITER_COLLECTIONS="$PWD/.cache/collections"
ansible-playbook() { ANSIBLE_COLLECTIONS_PATH="$ORBITER_COLLECTIONS" command ansible-playbook "$@"; }

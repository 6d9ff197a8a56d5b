#!/usr/bin/env bash
# Takes the server and the client out of an image of Redis or Valkey, and puts them into a folder as redis-server and redis-cli,
# where tests find them: of any version, whatever the system has. Usage: server_of_image.sh IMAGE DIRECTORY
set -euo pipefail
image=$1
directory=$2

container=$(docker create "$image")
trap 'docker rm --force "$container" >/dev/null' EXIT
kind=redis
[[ $image == *valkey* ]] && kind=valkey
# Not the links that an image of Valkey has by these names.
docker cp "$container:/usr/local/bin/$kind-server" "$directory/redis-server"
docker cp "$container:/usr/local/bin/$kind-cli" "$directory/redis-cli"
"$directory/redis-server" --version

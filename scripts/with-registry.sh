#!/usr/bin/env bash
# Runs a command beside a registry of its own that holds an image.
#
#   scripts/with-registry.sh LAYOUT[:TAG] NAME:TAG COMMAND [ARG…]
#
# Debian's docker-registry serves plain HTTP on a free loopback port, with its
# storage in a temporary directory; the OCI layout is pushed to it as NAME:TAG
# and COMMAND sees REGISTRY=127.0.0.1:PORT. Its exit code is ours. Registry and
# directory are gone afterwards, also after Ctrl-C.
set -euo pipefail

(($# >= 3)) || { echo "usage: scripts/with-registry.sh LAYOUT[:TAG] NAME:TAG COMMAND [ARG...]" >&2; exit 2; }
layout=$1 name=$2
shift 2
PATH=$PATH:/usr/sbin:/sbin

directory=$(mktemp -d "${TMPDIR:-/tmp}/costrel-registry-XXXXXX")
registry_pid='' command_pid=''
clean() {
    trap '' INT TERM HUP
    for pid in $command_pid $registry_pid; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
    done
    rm -rf "$directory"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# The port can be taken between our looking and the registry's binding: then try another.
start() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >"$directory/config.yml" <<YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $directory/storage}
  delete: {enabled: true}
http: {addr: "127.0.0.1:$port"}
YAML
    docker-registry serve "$directory/config.yml" >"$directory/log" 2>&1 </dev/null &
    registry_pid=$!
    for _ in {1..100}; do
        kill -0 "$registry_pid" 2>/dev/null || return 1
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 0; fi
        sleep 0.05
    done
    kill "$registry_pid" 2>/dev/null || true
    return 1
}
start || start || start || { cat "$directory/log" >&2; echo "with-registry.sh: docker-registry did not start" >&2; exit 1; }

skopeo copy --quiet --insecure-policy --dest-tls-verify=false "oci:$layout" "docker://127.0.0.1:$port/$name" >&2

export REGISTRY=127.0.0.1:$port
# In the background, so that a signal reaches this shell at once; fd 0 passed on by hand.
"$@" <&0 &
command_pid=$!
code=0
wait "$command_pid" || code=$?
command_pid=''
exit "$code"

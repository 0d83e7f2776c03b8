#!/usr/bin/env bash
# `make demo`: from nothing to a Python function that answers from its own virtual machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
target=$(realpath -m "$target")
demo=$target/demo
began=$SECONDS
say() { printf '\n\033[1m[%3d s] %s\033[0m\n' $((SECONDS - began)) "$*" >&2; }

say "Looking for what the demo needs"
scripts/install-deps.sh

say "Building the guest kernel, the agent and the command (the first time takes minutes)"
# Side by side: where one waits for its last file, the other has work.
make -j2 build

say "Making a Python image: Debian's python3.11 and AWS's own runtime client"
mkdir -p "$demo"
examples/python-image/build.sh "$demo/image"
(cd examples/python-layer && rm -f "$demo/layer.zip" && zip -qrX "$demo/layer.zip" . -x '*__pycache__*')

say "What this machine can do"
"$target/costrel/bin/costrel" doctor

say "A registry on loopback serves the image; costrel pulls it, boots a machine and invokes"
export COSTREL_BIN=$target/costrel/bin/costrel LAYER=$demo/layer.zip
scripts/with-registry.sh "$demo/image" lambda/python:3.11 bash -euo pipefail -c '
    invoke=("$COSTREL_BIN" invoke --runtime python3.11 --image "$REGISTRY/lambda/python:3.11"
        --code examples/python-function --layer "$LAYER" --handler app.handler --timings "{\"name\":\"Ada\"}")
    printf "\$ costrel invoke --runtime python3.11 --image %s --code examples/python-function \\\\\n" "$REGISTRY/lambda/python:3.11" >&2
    printf "      --layer layer.zip --handler app.handler --timings %s\n" "'"'"'{\"name\":\"Ada\"}'"'"'" >&2
    "${invoke[@]}"
    printf "\n\033[1mOnce more: image and disks are there now\033[0m\n" >&2
    "${invoke[@]}"
    "$COSTREL_BIN" image rm "$REGISTRY/lambda/python:3.11" >&2
'
say "Done. It ran in a virtual machine of its own; nothing of it is left running."

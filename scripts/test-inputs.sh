#!/usr/bin/env bash
# Makes what the end-to-end tests work on, below DIRECTORY: the Python and Node.js
# images, the Rust function and extension, the hostile guest.
#
#   scripts/test-inputs.sh DIRECTORY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
inputs=$1
mkdir -p "$inputs"
examples/python-image/build.sh "$inputs/python-image"
examples/node-image/build.sh "$inputs/node-image"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/examples examples/rust-function/build.sh "$inputs/rust-function.zip"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/examples examples/rust-extension/build.sh "$inputs/rust-extension.zip"
tests/hostile/build.sh "$inputs/hostile"

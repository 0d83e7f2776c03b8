#!/usr/bin/env bash
# Prints the path of a Python that has AWS's clients: boto3 and awscli, pinned.
#
#   python=$(scripts/test-clients.sh)
#
# It is made once and kept in ${XDG_CACHE_HOME:-~/.cache}/costrel/test-clients/<key>; the key covers
# the pins and the Python it is made of.
set -euo pipefail

pins=(boto3==1.44.5 botocore==1.44.5 awscli==1.46.3)

key=$(printf '%s\n' "${pins[@]}" "$(python3 -c 'import sys; print(sys.version, sys.prefix)')" | sha256sum)
environments=${XDG_CACHE_HOME:-$HOME/.cache}/costrel/test-clients
environment=$environments/${key:0:16}
mkdir -p "$environments"
# Tests of several programs want it at a time.
exec 9>"$environments/.lock"
flock 9
if [[ ! -e $environment/complete ]]; then
    rm -rf "$environment"
    # A virtual environment knows its own path: it is made in its place, and marked when it is whole.
    python3 -m venv "$environment" >&2
    "$environment/bin/pip" install --quiet --disable-pip-version-check "${pins[@]}" >&2
    touch "$environment/complete"
fi
echo "$environment/bin/python"

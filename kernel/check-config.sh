#!/usr/bin/env bash
# Fails when the kernel's configuration did not honour a line of the fragment.
#
#   check-config.sh FRAGMENT .CONFIG
#
# Kconfig drops a symbol silently when its dependencies are not met.
set -euo pipefail

fragment=$1 config=$2 missed=0
while read -r line; do
    case $line in
        CONFIG_*)
            symbol=${line%%=*}
            grep -qxF -- "$line" "$config" && continue ;;
        '# CONFIG_'*' is not set')
            symbol=${line#\# } symbol=${symbol%% *}
            grep -q "^$symbol=" "$config" || continue ;;
        *) continue ;;
    esac
    have=$(grep -E "^(# )?$symbol[ =]" "$config" || echo "no such symbol, or its dependencies are not met")
    echo "not honoured: $line (have: $have)" >&2
    missed=1
done <"$fragment"
exit $missed

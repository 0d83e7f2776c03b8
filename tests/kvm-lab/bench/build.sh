#!/usr/bin/env bash
# Builds what the benches in the lab need, in DIRECTORY: vmtime, and guest.ext4, the guests' root.
#
#   build.sh DIRECTORY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$1/root/sbin" "$1/root/dev"
gcc -O2 -Wall -static -o "$1/vmtime" vmtime.c
gcc -O2 -Wall -static -nostdlib -ffreestanding -fno-builtin -fno-stack-protector -o "$1/root/sbin/init" guest-init.c
rm -f "$1/guest.ext4"
mke2fs -q -F -t ext4 -b 4096 -O ^has_journal -d "$1/root" "$1/guest.ext4" 4M

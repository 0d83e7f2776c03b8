#!/usr/bin/env bash
# Installs what Costrel needs on Debian 12 or 13 and is not there yet.
#
#   install-deps.sh [run] [build] [kernel] [test] [lab] [node]     (default: all but the last)
#
# It looks for the commands first, so that it costs nothing, and needs neither
# root nor the network, when all is there.
set -euo pipefail

declare -A wanted=()

# need PACKAGE COMMAND|/FILE…: the package, unless each of the others exists.
need() {
    local package=$1 thing
    shift
    for thing; do
        if [[ $thing == /* ]]; then
            compgen -G "$thing" >/dev/null || wanted[$package]=1
        else
            command -v "$thing" >/dev/null || wanted[$package]=1
        fi
    done
}

need_rust=no
group() {
    case $1 in
        run)
            # Debian 13 splits the machine out of the package; the old name pulls it in.
            need qemu-system-x86 qemu-system-x86_64 ;;
        build)
            need build-essential gcc g++ make
            need_rust=yes ;;
        kernel)
            need build-essential gcc make
            need flex flex
            need bison bison
            need bc bc
            need xz-utils xz
            need python3 python3
            need libelf-dev /usr/include/gelf.h ;;
        test)
            need skopeo skopeo
            need umoci umoci
            need mmdebstrap mmdebstrap
            need docker-registry docker-registry
            need e2fsprogs mke2fs e2fsck debugfs
            need zip zip
            need unzip unzip
            need curl curl
            need chromium chromium
            need python3 python3
            need python3-pip pip3 ;;
        node)
            need nodejs node
            need npm npm
            need libnode-dev /usr/include/node/node_api.h
            need build-essential gcc g++ make
            need cmake cmake
            need python3 python3 ;;
        lab)
            need qemu-system-x86 qemu-system-x86_64
            # Debian 12's QEMU brings virtiofsd along.
            [[ $(. /etc/os-release && echo "${VERSION_ID-}") == 12 ]] || need virtiofsd /usr/libexec/virtiofsd
            need busybox-static busybox
            need cpio cpio
            need lz4 lz4
            need python3 python3
            need kmod depmod ;;
        *)
            echo "install-deps.sh: unknown group '$1' (there are: run build kernel test lab node)" >&2
            exit 2 ;;
    esac
}

# e2fsprogs and docker-registry live in sbin or bin depending on the release.
PATH=$PATH:/usr/sbin:/sbin

(($#)) || set -- run build kernel test lab
for name; do group "$name"; done

if ((${#wanted[@]})); then
    mapfile -t packages < <(printf '%s\n' "${!wanted[@]}" | sort)
    as_root=()
    if ((EUID != 0)); then as_root=(sudo); fi
    if ! command -v apt-get >/dev/null; then
        echo "These are missing, and this is no Debian: ${packages[*]} (Debian's names). Install them by hand." >&2
        exit 1
    fi
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        echo "These packages are missing: ${packages[*]}" >&2
        echo "As root: apt-get install --no-install-recommends ${packages[*]}" >&2
        exit 1
    fi
    echo "Installing Debian's ${packages[*]}" >&2

    # A service that a package brings (docker-registry's) must not start or stay
    # enabled: tests run their own, on a free port.
    masked=no
    unit=/etc/systemd/system/docker-registry.service
    if [[ -v wanted[docker-registry] && ! -e $unit && ! -L $unit ]]; then
        "${as_root[@]}" mkdir -p "${unit%/*}"
        "${as_root[@]}" ln -s /dev/null "$unit"
        masked=yes
    fi
    unmask() {
        [[ $masked == yes ]] || return 0
        masked=no
        "${as_root[@]}" rm -f "$unit" \
            "/etc/systemd/system/multi-user.target.wants/docker-registry.service"
    }
    # apt says much when all is well; it is shown only when not.
    log=$(mktemp)
    trap 'unmask; rm -f "$log"' EXIT
    apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" >>"$log" 2>&1; }
    install() { apt install -y -qq --no-install-recommends "${packages[@]}"; }

    # The lists of a fresh machine are empty, those of an old one name packages that are gone.
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || ! install; then
        echo "Updating the package lists" >&2
        apt update -qq || true
        install || { cat "$log" >&2; echo "apt could not install ${packages[*]}" >&2; exit 1; }
    fi
    rm -f "$log"
    unmask
fi

if [[ $need_rust == yes ]] && ! command -v cargo >/dev/null && [[ ! -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
    echo "Rust is missing: install it with rustup (https://rustup.rs), then try again." >&2
    exit 1
fi

#!/usr/bin/env bash
# Builds the guest kernel for x86_64 from Debian's linux-source package, once.
#
#   kernel/build.sh [--update]
#
# Prints the path of vmlinux on stdout, all else on stderr. The result lies in
# ${XDG_CACHE_HOME:-~/.cache}/costrel/kernels/<key>/ beside its provenance.json,
# and kernels/x86_64 is a link to the newest such directory. The key covers the
# configuration, this script, the compiler and the source package's version.
#
# With a kernel of the same recipe in the cache it needs no network; --update
# asks apt for a newer source package first. COSTREL_KERNEL_SOURCE names the
# package to use instead (linux-source-6.1, say).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fragment=$here/x86_64.config
kernels=${XDG_CACHE_HOME:-$HOME/.cache}/costrel/kernels
package=${COSTREL_KERNEL_SOURCE:-linux-source-6.12}
fallback=linux-source-6.1
objects_in_all=1090 # roughly; only for the progress line

say() { printf 'kernel: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
sha() { sha256sum | cut -d' ' -f1; }

update=no
case ${1-} in
    '') ;;
    --update) update=yes ;;
    *) die "usage: kernel/build.sh [--update]" ;;
esac
[[ $(uname -m) == x86_64 ]] || die "builds the x86_64 kernel on x86_64 only"

"$here/../scripts/install-deps.sh" kernel

compiler=$(gcc --version | head -n1)
config_sha256=$(sha <"$fragment")
recipe=$({ cat "$fragment" "$here/build.sh" "$here/check-config.sh" "$here/pack-elf.py"; echo "$compiler"; } | sha)

mkdir -p "$kernels"
exec 9>"$kernels/.lock"
if ! flock -n 9; then
    say "another build is running; waiting for it"
    flock 9
fi

# What a killed build left behind: we hold the lock, so nobody works in there.
rm -rf "$kernels"/.build-*

publish() {
    ln -sfn "$1" "$kernels/.x86_64.new"
    mv -Tf "$kernels/.x86_64.new" "$kernels/x86_64"
    echo "$kernels/$1/vmlinux"
}

# The installed version of the source package, empty when it is not installed.
installed_version() {
    [[ -e /usr/src/$1.tar.xz ]] && dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true
}

cached() {
    local provenance newest=''
    for provenance in "$kernels"/*/provenance.json; do
        [[ -e $provenance && $provenance != "$kernels"/x86_64/* ]] || continue
        grep -q "\"recipe\": \"$recipe\"" "$provenance" || continue
        grep -q "\"source_package\": \"$1\"" "$provenance" || continue
        [[ -z $2 ]] || grep -qF "\"source_version\": \"$2\"" "$provenance" || continue
        if [[ -z $newest || $provenance -nt $newest ]]; then newest=$provenance; fi
    done
    [[ -n $newest ]] && basename "$(dirname "$newest")"
}

version=$(installed_version "$package")
if [[ $update == no ]]; then
    if key=$(cached "$package" "$version") ||
        { [[ -z $version ]] && key=$(cached "$fallback" ''); }; then
        publish "$key"
        exit
    fi
fi

work=$(mktemp -d "$kernels/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# apt with lists of our own: the machine's suites plus its release's backports,
# from the mirror that the machine itself uses. Needs no root.
private_apt() {
    local release uri component signed_by codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
    : >"$work/apt/sources.list"
    while IFS='|' read -r uri release component signed_by; do
        [[ $component == main ]] || continue
        case $release in
            "$codename") for release in "$codename" "$codename-backports"; do
                echo "deb ${signed_by:+[signed-by=$signed_by] }$uri $release main"
            done ;;
            "$codename"-*) echo "deb ${signed_by:+[signed-by=$signed_by] }$uri $release main" ;;
        esac
    done >>"$work/apt/sources.list" < <(
        apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)' \
            'Identifier: Packages' | sed 's/\$(SIGNED_BY)//' | sort -u)
    [[ -s $work/apt/sources.list ]] || die "apt knows no mirror of Debian's \"${codename:-?}\": set COSTREL_KERNEL_SOURCE to an installed linux-source package"
    apt_options=(-qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt"
        -o APT::Sandbox::User=root -o Acquire::Languages=none)
    # A release without backports (a mirror's, or testing) is no reason to stop.
    apt-get "${apt_options[@]}" update >&2 || say "apt could not read every list; going on with what it has"
}

candidate() {
    apt-cache "${apt_options[@]}" policy "$1" | sed -n 's/^ *Candidate: *//p' | grep -v '^(none)$' || true
}

deb=''
if [[ -z $version || $update == yes ]]; then
    say "looking up Debian's $package"
    private_apt
    newer=$(candidate "$package")
    if [[ -z $newer && -z $version ]]; then
        say "there is no $package here; falling back to $fallback"
        package=$fallback
        version=$(installed_version "$package")
        newer=$(candidate "$package")
    fi
    if [[ -n $newer ]] && { [[ -z $version ]] || dpkg --compare-versions "$newer" gt "$version"; }; then
        version=$newer
        deb=yes
    fi
    [[ -n $version ]] || die "neither this package nor another kernel source is to be had: install one of Debian's linux-source packages and set COSTREL_KERNEL_SOURCE to its name"
fi

if key=$(cached "$package" "$version"); then
    publish "$key"
    exit
fi
key=$(printf '%s %s %s' "$recipe" "$package" "$version" | sha | cut -c1-16)

if [[ $deb == yes ]]; then
    say "downloading $package $version (about 150 MB)"
    (cd "$work/apt" && apt-get "${apt_options[@]}" download "$package=$version" >&2)
    dpkg-deb --fsys-tarfile "$work"/apt/"$package"_*.deb | tar -xO "./usr/src/$package.tar.xz" >"$work/source.tar.xz"
    rm -f "$work"/apt/*.deb
    tarball=$work/source.tar.xz
else
    tarball=/usr/src/$package.tar.xz
fi

# The biggest trees that no x86 guest compiles; their Kconfig files must stay.
say "unpacking $package $version"
mkdir "$work/linux"
tar -xf "$tarball" -C "$work/linux" --strip-components=1 \
    --exclude='*/drivers/gpu/drm/*.[ch]' --exclude='*/drivers/net/ethernet/*.[ch]' \
    --exclude='*/drivers/net/wireless/*.[ch]' --exclude='*/drivers/media/*.[ch]' \
    --exclude='*/sound/*.[ch]' --exclude='*/tools/testing' --exclude='*.dts' --exclude='*.dtsi'
rm -f "$work/source.tar.xz"
cd "$work/linux"

# Reproducible: no time, user, host or build number of this machine's; paths in
# the kernel are relative to its tree. The source's own date stands in for now.
unset MAKEFLAGS MAKELEVEL KBUILD_OUTPUT ARCH CROSS_COMPILE
export LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH KBUILD_BUILD_TIMESTAMP
SOURCE_DATE_EPOCH=$(stat -c %Y Makefile)
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$SOURCE_DATE_EPOCH")
export KBUILD_BUILD_USER=costrel KBUILD_BUILD_HOST=costrel KBUILD_BUILD_VERSION=1

say "configuring"
make KCONFIG_ALLCONFIG="$fragment" allnoconfig >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "configuring failed"; }
"$here/check-config.sh" "$fragment" .config || die "the configuration is not the one asked for: $fragment does not suit $package $version"

say "compiling on $(nproc) CPUs"
started=$SECONDS
setsid make -j"$(nproc)" vmlinux >"$work/log" 2>&1 9>&- &
make_pid=$!
trap 'kill -TERM -- "-$make_pid" 2>/dev/null || true; rm -rf "$work"' EXIT
ticks=0
while kill -0 "$make_pid" 2>/dev/null; do
    sleep 0.5
    ((++ticks % 20)) || say "$(grep -c '^  [A-Z]* *.*\.o$' "$work/log") of about $objects_in_all objects, $((SECONDS - started)) s"
done
if ! wait "$make_pid"; then
    grep -n -m 5 -E 'error|Error' "$work/log" >&2 || tail -n 20 "$work/log" >&2
    cp "$work/log" "$kernels/failed.log"
    die "compiling failed; the whole log: $kernels/failed.log"
fi
say "compiled $(grep -c '^  [A-Z]* *.*\.o$' "$work/log") objects in $((SECONDS - started)) s"

mkdir "$work/out"
"$here/pack-elf.py" vmlinux "$work/out/vmlinux"
cat >"$work/out/provenance.json" <<JSON
{
  "source_package": "$package",
  "source_version": "$version",
  "config_sha256": "$config_sha256",
  "recipe": "$recipe",
  "compiler": "$compiler",
  "vmlinux_sha256": "$(sha <"$work/out/vmlinux")",
  "built": "$(TZ=UTC date +%Y-%m-%dT%H:%M:%SZ)"
}
JSON
cp .config "$work/out/config"
sync "$work"/out/*
rm -rf "${kernels:?}/$key"
mv -T "$work/out" "$kernels/$key"
say "vmlinux is $(($(stat -c %s "$kernels/$key/vmlinux") / 1024)) KiB"
publish "$key"

"""Turns mmdebstrap's tar and the installed runtime client into an OCI layout.

Two gzip layers: Debian with Python, and the runtime client. Entries are sorted
and owned by root, times are clamped, so the same packages give the same digests.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import time

# What a function never reads.
LEFT_OUT = re.compile(
    r"(dev|proc|sys|run|tmp|boot|media|mnt|srv|home)/.|"
    r"etc/(hostname|resolv\.conf|apt|systemd|init\.d|cron|logrotate|initramfs-tools)(/|$)|"
    r"usr/share/(doc|doc-base|man|info|locale|lintian|bug|bash-completion|zsh|pixmaps|applications|menu|gdb|perl5|debconf)(/|$)|"
    r"usr/lib/x86_64-linux-gnu/(gconv|perl|perl-base)(/|$)|usr/lib/x86_64-linux-gnu/libperl\.so|"
    r"usr/(lib|share)/perl|etc/perl|var/lib/dpkg/info|"
    r"usr/lib/python3\.11/(pydoc_data|idlelib|lib2to3|turtledemo|distutils/tests|test|tkinter)(/|$)|"
    r"usr/lib/python3(/|$)|"
    r"usr/bin/(openssl|c_rehash|perl.*)$|"
    r"var/(cache|log|lib/(apt|systemd))/."
)

# The environment of AWS's images.
ENV = [
    "LANG=en_US.UTF-8",
    "TZ=:/etc/localtime",
    "PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    "LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    "LAMBDA_TASK_ROOT=/var/task",
    "LAMBDA_RUNTIME_DIR=/var/runtime",
]


class Layer:
    """One layer's entries by path; the last one added under a path counts."""

    def __init__(self, epoch):
        self.epoch = epoch
        self.entries = {}

    def _info(self, path, mode, kind=tarfile.REGTYPE):
        info = tarfile.TarInfo(path)
        info.mode, info.type, info.mtime = mode, kind, self.epoch
        info.uname = info.gname = "root"
        return info

    def directory(self, path, mode=0o755):
        self.entries[path] = (self._info(path, mode, tarfile.DIRTYPE), None)

    def file(self, path, data, mode=0o644):
        info = self._info(path, mode)
        info.size = len(data)
        self.entries[path] = (info, data)

    def symlink(self, path, target):
        info = self._info(path, 0o777, tarfile.SYMTYPE)
        info.linkname = target
        self.entries[path] = (info, None)

    def member(self, info, data):
        """An entry of another archive, with its owner, mode and (clamped) time."""
        info.mtime = min(int(info.mtime), self.epoch)
        info.pax_headers = {}
        self.entries[info.name] = (info, data)

    def tree(self, source, target):
        for path in sorted(pathlib.Path(source).rglob("*")):
            name = f"{target}/{path.relative_to(source)}"
            if path.is_symlink():
                self.symlink(name, os.readlink(path))
            elif path.is_dir():
                self.directory(name)
            else:
                self.file(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)

    def write(self):
        """The uncompressed layer. A hard link must come after what it names."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(self.entries, key=lambda n: (self.entries[n][0].islnk(), n)):
                info, data = self.entries[name]
                tar.addfile(info, io.BytesIO(data) if data is not None else None)
        return buffer.getvalue()


def run_image_python(root, *arguments):
    """Runs the image's own interpreter by its own loader, so without chroot or root."""
    loader = root / "lib64/ld-linux-x86-64.so.2"
    libraries = ":".join(str(root / d) for d in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    subprocess.run(
        [loader.resolve(), "--library-path", libraries, root / "usr/bin/python3.11", "-S", "-E", *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
        check=True,
    )


def compile_python(root, directory, inside):
    """Byte-compiles for a root that is read-only: Python checks no source's time."""
    run_image_python(
        root, "-c",
        "import sys; r = sys.argv[1]; sys.path[:] = [r + '/usr/lib/python3.11', r + '/usr/lib/python3.11/lib-dynload'];"
        "import compileall;"
        "from py_compile import PycInvalidationMode as M;"
        "sys.exit(not compileall.compile_dir(sys.argv[2], quiet=1, stripdir=sys.argv[2], prependdir=sys.argv[3],"
        " invalidation_mode=M.UNCHECKED_HASH, force=True, maxlevels=20))",
        root, directory, inside,
    )


def debian_layer(base, work, epoch):
    """Debian's packages, and what their maintainer scripts would have made of them."""
    layer, root = Layer(epoch), work / "root"
    kept = []
    with tarfile.open(base) as tar:
        for info in tar:
            info.name = info.name.removeprefix("./").rstrip("/")
            if info.islnk():
                info.linkname = info.linkname.removeprefix("./")
            if info.name in ("", ".") or LEFT_OUT.match(info.name) or info.ischr() or info.isblk():
                continue
            layer.member(info, tar.extractfile(info).read() if info.isreg() else None)
            kept.append(info)
    for info in kept:
        target = root / info.name
        data = layer.entries[info.name][1]
        if info.isdir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if info.issym():
                # Absolute targets would lead out of the tree.
                link = info.linkname
                target.symlink_to(os.path.relpath(root / link.lstrip("/"), target.parent) if link.startswith("/") else link)
            elif info.islnk():
                os.link(root / info.linkname, target)
            elif data is not None:
                target.write_bytes(data)
                target.chmod(info.mode | 0o200)

    for name in ("passwd", "group"):
        layer.file(f"etc/{name}", (root / f"usr/share/base-passwd/{name}.master").read_bytes())
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    layer.directory("etc/ssl/certs")
    layer.file("etc/ssl/certs/ca-certificates.crt", b"".join(c.read_bytes().rstrip() + b"\n" for c in authorities))
    if "bin/sh" not in layer.entries:
        layer.symlink("bin/sh", "dash")
    layer.file("etc/hosts", b"127.0.0.1\tlocalhost\n::1\tlocalhost\n")
    for path, mode in (("proc", 0o555), ("sys", 0o555), ("dev", 0o755), ("run", 0o755), ("tmp", 0o1777), ("root", 0o700)):
        layer.directory(path, mode)
    layer.directory("var/tmp", 0o1777)

    library = root / "usr/lib/python3.11"
    compile_python(root, library, "/usr/lib/python3.11")
    for pyc in sorted(library.rglob("__pycache__/*.pyc")):
        name = str(pyc.relative_to(root))
        layer.directory(os.path.dirname(name))
        layer.file(name, pyc.read_bytes())

    # apt's view of what is in here, for the curious and for the provenance.
    status = (root / "var/lib/dpkg/status").read_text() if (root / "var/lib/dpkg/status").exists() else ""
    versions = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)", status, re.M))
    return layer, root, versions


def client_layer(root, client, files, epoch):
    """AWS's runtime client, its bootstrap, and the directories a function is mounted on."""
    for unused in ("bin", "tests", "simplejson/tests"):
        shutil.rmtree(client / unused, ignore_errors=True)
    # pip's own record names what was removed and when it was installed.
    for record in [*client.rglob("RECORD"), *client.rglob("INSTALLER"), *client.rglob("REQUESTED"), *client.rglob("direct_url.json")]:
        record.unlink()
    compile_python(root, client, "/var/runtime")
    layer = Layer(epoch)
    for path in ("var", "var/runtime", "var/task", "opt"):
        layer.directory(path)
    layer.tree(client, "var/runtime")
    layer.file("var/runtime/bootstrap", (files / "bootstrap").read_bytes(), 0o755)
    layer.file("lambda-entrypoint.sh", (files / "lambda-entrypoint.sh").read_bytes(), 0o755)
    return layer


def main():
    parser = argparse.ArgumentParser()
    for name in ("base", "client", "files", "work", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--epoch", type=int, required=True)
    args = parser.parse_args()

    debian, root, versions = debian_layer(args.base, args.work, args.epoch)
    runtime = client_layer(root, args.client, args.files, args.epoch)

    blobs = args.out / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def as_json(value):
        return json.dumps(value, separators=(",", ":")).encode()

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(args.epoch))
    layers, diff_ids, unpacked = [], [], 0
    for layer in (debian, runtime):
        data = layer.write()
        unpacked += len(data)
        diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        layers.append(blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(data, 6, mtime=0)))

    config = blob("application/vnd.oci.image.config.v1+json", as_json({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "Env": ENV,
            "Entrypoint": ["/lambda-entrypoint.sh"],
            "WorkingDir": "/var/task",
            "Labels": {"org.opencontainers.image.title": "Python 3.11 for functions, from Debian's packages"},
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [
            {"created": created, "created_by": "Debian's python3.11 " + versions.get("python3.11", "")},
            {"created": created, "created_by": "the runtime client awslambdaric"},
        ],
    }))
    manifest = blob("application/vnd.oci.image.manifest.v1+json", as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    }))
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    manifest["platform"] = {"architecture": "amd64", "os": "linux"}
    (args.out / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))
    # Last: a directory with an index is a whole image.
    (args.out / "index.json").write_bytes(as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    }))
    print(f"python image: {sum(l['size'] for l in layers) >> 20} MiB compressed, {unpacked >> 20} MiB unpacked")


main()

#!/usr/bin/env python3
"""Writes what the fuzz targets start from: `seeds.py TARGET DIRECTORY`."""

import gzip
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import zipfile


def tar(entries, form):
    """An archive of (name, type, content or target, PAX records)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, bufsize=512) as archive:
        archive.copybufsize = 512
        for name, kind, content, pax in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.pax_headers = kind, 0o755, pax
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                info.devmajor, info.devminor = 1, 3
                archive.addfile(info)
    # Without most of the empty blocks at the end, so that there is less to change.
    return out.getvalue().rstrip(b"\0").ljust(512, b"\0") + bytes(1024)


FILE, DIRECTORY, LINK, SYMLINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
LOWER = [
    ("d", DIRECTORY, "", {}), ("d/f", FILE, b"content", {}), ("l", SYMLINK, "d", {}),
    ("h", LINK, "d/f", {}), ("null", tarfile.CHRTYPE, "", {}), ("pipe", tarfile.FIFOTYPE, "", {}),
    ("l/below", FILE, b"x" * 600, {}),
]
UPPER = [
    ("d/.wh.f", FILE, b"", {}), ("d/.wh..wh..opq", FILE, b"", {}), ("h", DIRECTORY, "", {}),
    ("d/f", LINK, "null", {}), ("l", DIRECTORY, "", {}),
]
PAX = [
    ("n" * 200, FILE, b"long", {"mtime": "1.5", "SCHILY.xattr.user.a": "b"}),
    ("sparse", FILE, b"x" * 15, {"GNU.sparse.size": "9000", "GNU.sparse.map": "0,10,5000,5"}),
    ("sparse1", FILE, b"1\n100\n5\n".ljust(512, b"\0") + b"12345",
     {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "8000"}),
]


def layers():
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        lower = tar(LOWER, form)
        yield bytes([len(lower) // 512, 0]) + lower + tar(UPPER, form)
    yield bytes([0, 0]) + tar(PAX, tarfile.PAX_FORMAT)
    yield bytes([0, 0]) + tar([("n" * 200, SYMLINK, "t" * 200, {})], tarfile.GNU_FORMAT)
    yield bytes([0, 0x10]) + gzip.compress(tar(LOWER, tarfile.USTAR_FORMAT))


def zips():
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("bootstrap", b"#!/bin/sh\n" * 20)
            archive.mkdir("d")
            archive.writestr("d/f", b"x")
            link = zipfile.ZipInfo("link")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, "bootstrap")
            with archive.open("large", "w", force_zip64=True) as file:
                file.write(b"zip64")
        yield out.getvalue()

    class Pipe(io.RawIOBase):
        """Cannot seek: sizes follow the data."""

        def __init__(self):
            self.bytes = b""

        def writable(self):
            return True

        def write(self, data):
            self.bytes += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"streamed" * 9)
    yield pipe.bytes


LAYER = bytes(1024)
digest = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
CONFIG = json.dumps({
    "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
    "config": {"Env": ["A=b"], "Entrypoint": ["/a"], "Cmd": None, "User": "1:2", "Labels": {"a": "b"},
               "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "WorkingDir": "/w"},
    "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]},
}).encode()
TYPE = "application/vnd.oci.image."
describe = lambda kind, data: {"mediaType": TYPE + kind, "digest": digest(data), "size": len(data)}
MANIFEST = json.dumps({
    "schemaVersion": 2, "mediaType": TYPE + "manifest.v1+json",
    "config": describe("config.v1+json", CONFIG), "layers": [describe("layer.v1.tar", LAYER)],
}).encode()
INDEX = json.dumps({"schemaVersion": 2, "manifests": [{
    **describe("manifest.v1+json", MANIFEST), "platform": {"architecture": "amd64", "os": "linux"},
    "annotations": {"org.opencontainers.image.ref.name": "t"},
}]}).encode()
LIST = json.dumps([{"Config": "c.json", "RepoTags": ["a/b:1"], "Layers": ["l.tar"]}]).encode()


def documents():
    for kind, document in enumerate((INDEX, MANIFEST, CONFIG, LIST)):
        yield bytes([kind]) + document


def archives():
    docker = [("manifest.json", LIST), ("c.json", CONFIG), ("l.tar", LAYER)]
    blobs = [("blobs/" + digest(data).replace(":", "/"), data) for data in (MANIFEST, CONFIG, LAYER)]
    layout = [("index.json", INDEX), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), *blobs]
    for files in (docker, layout):
        archive = tar([(name, FILE, data, {}) for name, data in files], tarfile.USTAR_FORMAT)
        yield archive
        yield gzip.compress(archive)


def references():
    for text in ("alpine", "127.0.0.1:5000/a/b:tag", "a.b/c@" + digest(b""), "oci:/a/b:t", "[::1]:1/x",
                 "docker-archive:a.tar:b", "linux/arm/v7", "docker.io/library/x:1@" + digest(b"")):
        yield text.encode()


def kvm_state():
    state = (pathlib.Path(__file__).parents[2] / "crates/vmm-kvm/tests-data/state-1").read_bytes()
    yield state
    # Without its envelope.
    yield state[32:]


def virtio_block():
    for kind in range(8):
        yield bytes([kind]) + bytes([0, 0, 3, 1, 0, 0, 3, 1, 9, 9, 65, 1, 9, 10, 9, 10, 7] * 8)


def virtio_entropy():
    yield bytes([0]) + bytes([0, 1, 1, 3, 0, 1, 1, 0, 1, 9, 9, 1, 100, 0, 7] * 8)


def virtio_vsock():
    ready = bytes([9, 7]) + bytes([9, 1, 1, 1, 0, 4] * 7)
    packet = lambda operation: bytes([6, 1, 0, 9, 0, operation, 0, 0, 9, 0, 255, 0, 3, 0, 0, 3, 1, 1, 70, 1])
    for kind in range(4):
        yield bytes([kind]) + ready + bytes([0, 1, 15]) + packet(2) + packet(5) + bytes([2, 9, 1, 15, 3, 15])


def virtio_packets():
    yield bytes([0, 0, 9, 8, 3, 9, 9, 44, 2, 5, 1, 9, 9, 0, 8, 255, 1, 0, 20, 8, 255] * 6)
    yield bytes([3, 255, 63, 44] * 20 + [2, 8, 6, 0, 2, 7, 0, 2])


def virtio_mmio():
    write = lambda offset, value: bytes([offset // 4, value])
    start = b"".join([
        write(0x70, 1), write(0x70, 3), write(0x24, 1), write(0x20, 1), write(0x70, 11), write(0x38, 4),
        write(0x80, 0x10), write(0x90, 0x80), write(0xA0, 0xC0), write(0x44, 1), write(0x70, 15)])
    yield start
    yield start + write(0x50, 0) + write(0x70, 0) + start


target, directory = sys.argv[1:]
makers = {"zip": zips}
for number, seed in enumerate(makers.get(target, globals().get(target))()):
    (pathlib.Path(directory) / f"seed{number}").write_bytes(seed)

"""Puts a directory tree as a layer on the first layer of another image, as an OCI layout."""

import argparse
import gzip
import hashlib
import io
import json
import pathlib
import tarfile

EPOCH = 1700000000


def read(layout, descriptor):
    return (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()


def tar(tree):
    """All entries, sorted, owned by root, with the same time: the same tree gives the same digest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            info = archive.gettarinfo(path, str(path.relative_to(tree)))
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = EPOCH
            archive.addfile(info, path.open("rb") if info.isreg() else None)
    return buffer.getvalue()


def main():
    parser = argparse.ArgumentParser()
    for name in ("base", "tree", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    args = parser.parse_args()
    index = json.loads((args.base / "index.json").read_text())
    manifest = json.loads(read(args.base, index["manifests"][0]))
    config = json.loads(read(args.base, manifest["config"]))
    blobs = args.out / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def as_json(value):
        return json.dumps(value, separators=(",", ":")).encode()

    layer = tar(args.tree)
    below = manifest["layers"][0]
    layers = [
        blob(below["mediaType"], read(args.base, below)),
        blob(below["mediaType"], gzip.compress(layer, 6, mtime=0)),
    ]
    config["config"]["Labels"] = {"org.opencontainers.image.title": "Node.js 22 for functions"}
    config["rootfs"]["diff_ids"] = [config["rootfs"]["diff_ids"][0], "sha256:" + hashlib.sha256(layer).hexdigest()]
    config["history"] = [config["history"][0], {"created": config["created"], "created_by": "Node.js and aws-lambda-ric"}]
    manifest["config"] = blob(manifest["config"]["mediaType"], as_json(config))
    manifest["layers"] = layers
    index["manifests"][0].update(blob(manifest["mediaType"], as_json(manifest)))
    (args.out / "oci-layout").write_bytes((args.base / "oci-layout").read_bytes())
    # Last: a directory with an index is a whole image.
    (args.out / "index.json").write_bytes(as_json(index))


main()

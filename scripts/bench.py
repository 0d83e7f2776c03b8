#!/usr/bin/env python3
"""`make bench`: measures, and prints a table. Medians; a busy machine shows in the wall times.

`scripts/bench.py [invoke] [restore] [stage] [pull]` measures only that.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
COSTREL = TARGET / "costrel/bin/costrel"
INPUTS = TARGET / "test-inputs"
OCI = "application/vnd.oci.image."
RUNS = int(os.environ.get("BENCH_RUNS", "5"))


class Run:
    """A command that was run: its output, wall and CPU time in seconds, peak memory in MiB."""

    def __init__(self, *command, **options):
        began = time.monotonic()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, **options)
            _, status, usage = os.wait4(process.pid, 0)
            self.wall = time.monotonic() - began
            out.seek(0)
            self.output = out.read().decode(errors="replace")
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"failed: {' '.join(map(str, command))}\n{self.output}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.peak_mib = usage.ru_maxrss / 1024


def median(values):
    return statistics.median(list(values))


def row(what, measured, target="", note=""):
    print(f"  {what:<52} {measured:>14}   {target:<18} {note}".rstrip(), flush=True)


def title(text):
    print(f"\n{text}", flush=True)


def environment_of(home):
    return {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "XDG_DATA_HOME": str(home / "data")}


def functions():
    """The options of each function that is invoked."""
    return {
        "Python 3.11 on awslambdaric": [
            "--runtime", "python3.11", "--image", f"oci:{INPUTS / 'python-image'}",
            "--code", ROOT / "examples/python-function", "--handler", "app.handler",
        ],
        "Rust on lambda_runtime, no image": [
            "--runtime", "provided.al2023", "--code", INPUTS / "rust-function.zip",
        ],
    }


def phase(run, name):
    """How long a phase of `--timings` took, in ms."""
    return float(re.search(rf"^  {name} .* ([0-9.]+) ms$", run.output, re.M)[1])


def invoke_costs(home):
    title(f"A cold invoke, emulated, all staged before (median of {RUNS})")
    environment = environment_of(home)
    for name, options in functions().items():
        command = [COSTREL, "invoke", "--no-snapshot", "--timings", *options, "{}"]
        Run(*command, env=environment)
        runs = [Run(*command, env=environment) for _ in range(RUNS)]
        row(f"{name}: CPU time of everything", f"{median(run.cpu for run in runs):.2f} s",
            "at most 2.0 s" if "Python" in name else "")
        row(f"{name}: wall time", f"{median(run.wall for run in runs):.2f} s")
        for part in ("boot", "mount", "init", "invoke"):
            target = "at most 700 ms" if part == "boot" else ""
            row(f"  of which {part}", f"{median(phase(run, part) for run in runs):.0f} ms", target)
    resident = [float(re.search(r"agent .* ([0-9.]+) MB$", run.output, re.M)[1]) for run in runs]
    row("the agent's memory in the guest", f"{median(resident):.1f} MB", "at most 10 MiB")
    agent = TARGET / "costrel/lib/costrel/vminitd"
    row("the agent on disk", f"{agent.stat().st_size / 1e6:.1f} MB", "at most 8 MiB")


BOOT, RESTORE = ("boot", "mount", "init", "invoke"), ("restore", "wake", "resume", "invoke")


def restore_costs(home):
    title(f"A cold start from a snapshot beside a boot, emulated, interleaved (median of {RUNS})")
    environment = environment_of(home)
    total = lambda run, parts: sum(phase(run, part) for part in parts)
    for name, options in functions().items():
        command = [COSTREL, "invoke", "--timings", *options, "{}"]
        taken = Run(*command, env=environment)
        pairs = [(Run(*command, env=environment), Run(*command, "--no-snapshot", env=environment)) for _ in range(RUNS)]
        restored, booted = zip(*pairs)
        limit = 150 if "Python" in name else 80
        start, boot = median(total(run, RESTORE) for run in restored), median(total(run, BOOT) for run in booted)
        row(f"{name}: restore to first response", f"{start:.0f} ms", f"at most {limit} ms", f"{start / boot:.2f} of a boot's {boot:.0f} ms")
        for part in RESTORE:
            row(f"  of which {part}", f"{median(phase(run, part) for run in restored):.0f} ms")
        row("  the whole command, wall time", f"{median(run.wall for run in restored) * 1000:.0f} ms", "", f"{median(run.wall for run in booted) * 1000:.0f} ms without")
        row("  taking the snapshot: the function stands still", f"{phase(taken, 'snapshot'):.0f} ms")
        began = time.monotonic()
        processes = [subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(8)]
        if any(process.wait() for process in processes):
            sys.exit("failed: 8 at once")
        row("  8 at once: until all have answered", f"{(time.monotonic() - began) * 1000:.0f} ms")
    containers(home)


def containers(home):
    """The peer: the Python image's interpreter in a container, where something here runs one."""
    runtime = next((path for name in ("crun", "runc") if (path := shutil.which(name))), None)
    if runtime is None or os.geteuid() != 0:
        row("a container beside it", "not measured", "", "takes crun or runc, and root")
        return
    bundle = home / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    for layer in layer_blobs(INPUTS / "python-image"):
        subprocess.run(["tar", "-xzf", layer, "-C", bundle / "rootfs"], check=True)
    subprocess.run([runtime, "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/usr/bin/python3.11", "-c", "import json; print(json.dumps({}))"])
    (bundle / "config.json").write_text(json.dumps(config))
    run = lambda number: subprocess.run([runtime, "run", f"costrel-bench-{os.getpid()}-{number}"], cwd=bundle, capture_output=True, text=True)
    first = run(0)
    if first.returncode != 0:
        row("a container beside it", "not measured", "", f"{pathlib.Path(runtime).name}: {(first.stderr.strip().splitlines() or ['?'])[-1]}")
        return
    times = []
    for number in range(RUNS):
        began = time.monotonic()
        run(number + 1)
        times.append(time.monotonic() - began)
    row(f"the same image's Python under {pathlib.Path(runtime).name}, no handler", f"{median(times) * 1000:.0f} ms")


def layer_blobs(layout):
    """The layers of a layout's only image, the lowest first."""
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    return [blob(layer["digest"]) for layer in manifest["layers"]]


def put_blob(layout, content):
    """Adds a blob to a layout; gives its descriptor's digest and size."""
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def small_files_image():
    """A layout with 60,000 files of 0 to 8 KiB in three gzip layers, as source trees have them."""
    layout = INPUTS / "small-files-image"
    if layout.exists():
        return layout
    draft = INPUTS / ".small-files-image.new"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "blobs/sha256").mkdir(parents=True)
    random_ = random.Random(1)
    words = [bytes(random_.choices(b"abcdefghijklmnopqrstuvwxyz", k=random_.randint(2, 9))) for _ in range(4000)]
    text = b" ".join(random_.choices(words, k=200_000))
    layers, diff_ids = [], []
    for number in range(3):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for directory in range(200):
                info = tarfile.TarInfo(f"layer{number}/directory{directory}")
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
                for file in range(100):
                    start, size = random_.randrange(len(text) - 8192), random_.randrange(8192)
                    entry = tarfile.TarInfo(f"{info.name}/file{file}.txt")
                    entry.size = size
                    archive.addfile(entry, io.BytesIO(text[start:start + size]))
        plain = out.getvalue()
        diff_ids.append("sha256:" + hashlib.sha256(plain).hexdigest())
        blob = put_blob(draft, gzip.compress(plain, 6, mtime=0))
        layers.append({"mediaType": OCI + "layer.v1.tar+gzip", **blob})
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = {"mediaType": OCI + "config.v1+json", **put_blob(draft, json.dumps(config).encode())}
    manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
    manifest = {"mediaType": OCI + "manifest.v1+json", **put_blob(draft, json.dumps(manifest).encode())}
    (draft / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (draft / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    draft.rename(layout)
    return layout


def stage(home, layers):
    """One run of ours; its wall time is that of the whole process, as the others' is."""
    shutil.rmtree(home / "stage", ignore_errors=True)
    run = Run(TARGET / "release/examples/stage_bench", home / "stage", *layers)
    # The system's number would not be below this script's own.
    run.peak_mib = int(re.search(r" (\d+) KiB peak", run.output)[1]) / 1024
    return run


def staging(home, name, layout):
    title(f"Staging {name}, beside tar and mke2fs (interleaved, median of {RUNS})")
    home = home / "staging"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    layers = []
    for number, blob in enumerate(layer_blobs(layout)):
        layers.append(home / f"layer{number}.tar.gz")
        layers[-1].symlink_to(blob)
    tree, disk, merged = home / "tree", home / "peer.ext4", home / "merged.tar"

    def extract():
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        return [Run("tar", "-xzf", layer, "-C", tree, "--exclude=.wh.*") for layer in layers]

    def make():
        # What ours writes for a disk that is only read: metadata checksums, no journal.
        disk.unlink(missing_ok=True)
        return Run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-N", entries + 100,
                   "-d", tree, disk, size)

    extract()
    entries = sum(1 for _ in tree.rglob("*"))
    used = sum((path.lstat().st_size + 4095) // 4096 for path in tree.rglob("*"))
    size = f"{used * 4 * 5 // 4 + entries // 2 + 65536}k"
    Run("tar", "-cf", merged, "-C", tree, ".")
    # The program finds out the archives' digests the first time.
    stage(home, layers), stage(home, [merged])
    gz, unpacked, plain, made = [], [], [], []
    for _ in range(RUNS):
        gz.append(stage(home, layers))
        extracted = extract()
        made.append(make())
        unpacked.append(sum(run.wall for run in extracted) + made[-1].wall)
        plain.append(stage(home, [merged]))
    total = sum(layer.stat().st_size for layer in layers)
    row(f"{entries} entries, {total / 1e6:.0f} MB of gzip, {merged.stat().st_size / 1e6:.0f} MB of tar", "")
    ours, theirs = median(run.wall for run in gz), median(unpacked)
    row("gzip layers to ext4", f"{ours * 1000:.0f} ms")
    row("tar -x and mke2fs -d", f"{theirs * 1000:.0f} ms")
    row("  ratio", f"{theirs / ours:.1f} x", "at least 3 x")
    ours, theirs = median(run.wall for run in plain), median(run.wall for run in made)
    row("a plain tar to ext4", f"{ours * 1000:.0f} ms")
    row("mke2fs -d alone", f"{theirs * 1000:.0f} ms")
    row("  ratio", f"{theirs / ours:.1f} x", "at least 1 x")
    row("peak memory, gzip layers", f"{median(run.peak_mib for run in gz):.0f} MiB", "at most 32 MiB", "and the metadata")
    row("peak memory, a plain tar", f"{median(run.peak_mib for run in plain):.0f} MiB", "at most 32 MiB", "and the metadata")


def pulling(home, name, layout):
    title(f"Pulling {name} from loopback, beside skopeo (interleaved, median of {RUNS})")
    program = TARGET / "release/examples/pull_bench"
    script = f"""
        set -eu
        for i in $(seq {RUNS}); do
            rm -rf {home}/pull {home}/skopeo; mkdir {home}/pull
            s=$(date +%s%N); {program} $REGISTRY/bench:1 {home}/pull >/dev/null; e=$(date +%s%N); echo ours $((e-s))
            s=$(date +%s%N); skopeo copy -q --src-tls-verify=false docker://$REGISTRY/bench:1 oci:{home}/skopeo; e=$(date +%s%N); echo skopeo $((e-s))
        done
    """
    run = Run(ROOT / "scripts/with-registry.sh", layout, "bench:1", "bash", "-c", script)
    times = lambda name: [int(t) / 1e6 for t in re.findall(rf"^{name} (\d+)$", run.output, re.M)]
    ours, skopeo = median(times("ours")), median(times("skopeo"))
    row("costrel", f"{ours:.0f} ms")
    row("skopeo copy to an OCI layout", f"{skopeo:.0f} ms")
    row("  ratio", f"{ours / skopeo:.2f} x", "at most 1.2 x")


def main():
    subprocess.run([ROOT / "scripts/install-deps.sh"], check=True)
    sections = sys.argv[1:] or ["invoke", "restore", "stage", "pull"]
    if {"invoke", "restore"} & set(sections):
        subprocess.run([ROOT / "scripts/test-inputs.sh", INPUTS], check=True)
    else:
        subprocess.run([ROOT / "examples/python-image/build.sh", INPUTS / "python-image"], check=True)
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet", "-p", "costrel-rootfs", "-p", "costrel-image", "--examples"],
        check=True, cwd=ROOT,
    )
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, load average {load:.1f}")
    with tempfile.TemporaryDirectory(prefix="costrel-bench-") as directory:
        home = pathlib.Path(directory)
        images = {
            "Debian's Python": INPUTS / "python-image",
            "60,000 small files": small_files_image(),
        }
        if "invoke" in sections:
            invoke_costs(home)
        if "restore" in sections:
            restore_costs(home)
        for section, measure in (("stage", staging), ("pull", pulling)):
            for name, layout in images.items():
                if section in sections:
                    measure(home, name, layout)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""`make bench`: measures, and prints a table. Medians; a busy machine shows in the wall times."""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
COSTREL = TARGET / "costrel/bin/costrel"
INPUTS = TARGET / "test-inputs"
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
    print(f"  {what:<52} {measured:>14}   {target:<18} {note}", flush=True)


def title(text):
    print(f"\n{text}", flush=True)


def invoke_costs(home):
    title(f"A cold invoke, emulated, all staged before (median of {RUNS})")
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(home / "cache"), "XDG_DATA_HOME": str(home / "data"),
    }
    cases = {
        "Python 3.11 on awslambdaric": [
            "--runtime", "python3.11", "--image", f"oci:{INPUTS / 'python-image'}",
            "--code", ROOT / "examples/python-function", "--handler", "app.handler",
        ],
        "Rust on lambda_runtime, no image": [
            "--runtime", "provided.al2023", "--code", INPUTS / "rust-function.zip",
        ],
    }
    for name, options in cases.items():
        command = [COSTREL, "invoke", "--timings", *options, "{}"]
        Run(*command, env=environment)
        runs = [Run(*command, env=environment) for _ in range(RUNS)]
        row(f"{name}: CPU time of everything", f"{median(run.cpu for run in runs):.2f} s",
            "at most 2.0 s" if "Python" in name else "")
        row(f"{name}: wall time", f"{median(run.wall for run in runs):.2f} s")
        phase = lambda run, name: float(re.search(rf"^  {name} .* ([0-9.]+) ms$", run.output, re.M)[1])
        for part in ("boot", "mount", "init", "invoke"):
            target = "at most 700 ms" if part == "boot" else ""
            row(f"  of which {part}", f"{median(phase(run, part) for run in runs):.0f} ms", target)
    resident = [float(re.search(r"agent .* ([0-9.]+) MB$", run.output, re.M)[1]) for run in runs]
    row("the agent's memory in the guest", f"{median(resident):.1f} MB", "at most 10 MiB")
    agent = TARGET / "costrel/lib/costrel/vminitd"
    row("the agent on disk", f"{agent.stat().st_size / 1e6:.1f} MB", "at most 8 MiB")


def layer_blobs(layout):
    """The layers of a layout's only image, the lowest first."""
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    return [blob(layer["digest"]) for layer in manifest["layers"]]


def staging(home):
    title(f"Staging the Python image, beside tar and mke2fs (median of {RUNS})")
    program = TARGET / "release/examples/stage_bench"
    layers = []
    for number, blob in enumerate(layer_blobs(INPUTS / "python-image")):
        layers.append(home / f"layer{number}.tar.gz")
        layers[-1].symlink_to(blob)

    def ours():
        shutil.rmtree(home / "stage", ignore_errors=True)
        run = Run(program, home / "stage", *layers)
        # The program's own clock: before it starts, it computes the layers' digests for itself.
        run.wall = float(re.search(r" ([0-9.]+) s", run.output)[1])
        run.peak_mib = int(re.search(r" (\d+) KiB peak", run.output)[1]) / 1024
        return run

    def peer():
        shutil.rmtree(home / "tree", ignore_errors=True)
        (home / "tree").mkdir()
        began = [Run("tar", "-xzf", layer, "-C", home / "tree", "--exclude=.wh.*") for layer in layers]
        (home / "peer.ext4").unlink(missing_ok=True)
        began.append(Run("mke2fs", "-q", "-F", "-t", "ext4", "-d", home / "tree", home / "peer.ext4", "256M"))
        return began

    mine, theirs = [], []
    for _ in range(RUNS):
        mine.append(ours())
        theirs.append(sum(run.wall for run in peer()))
    wall = median(run.wall for run in mine)
    row("layers to ext4", f"{wall * 1000:.0f} ms")
    row("tar -x and mke2fs -d", f"{median(theirs) * 1000:.0f} ms")
    row("ratio", f"{median(theirs) / wall:.1f} x", "at least 3 x")
    row("peak memory", f"{median(run.peak_mib for run in mine):.0f} MiB")


def pulling(home):
    title(f"Pulling the Python image from loopback, beside skopeo (median of {RUNS})")
    program = TARGET / "release/examples/pull_bench"
    script = f"""
        set -eu
        for i in $(seq {RUNS}); do
            rm -rf {home}/pull {home}/skopeo; mkdir {home}/pull
            s=$(date +%s%N); {program} $REGISTRY/bench:1 {home}/pull >/dev/null; e=$(date +%s%N); echo ours $((e-s))
            s=$(date +%s%N); skopeo copy -q --src-tls-verify=false docker://$REGISTRY/bench:1 oci:{home}/skopeo; e=$(date +%s%N); echo skopeo $((e-s))
        done
    """
    run = Run(ROOT / "scripts/with-registry.sh", INPUTS / "python-image", "bench:1", "bash", "-c", script)
    times = lambda name: [int(t) / 1e6 for t in re.findall(rf"^{name} (\d+)$", run.output, re.M)]
    ours, skopeo = median(times("ours")), median(times("skopeo"))
    row("costrel", f"{ours:.0f} ms")
    row("skopeo copy to an OCI layout", f"{skopeo:.0f} ms")
    row("ratio", f"{ours / skopeo:.2f} x", "at most 1.2 x")


def main():
    subprocess.run([ROOT / "scripts/install-deps.sh"], check=True)
    subprocess.run([ROOT / "scripts/test-inputs.sh", INPUTS], check=True)
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet", "-p", "costrel-rootfs", "-p", "costrel-image", "--examples"],
        check=True, cwd=ROOT,
    )
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, load average {load:.1f}")
    with tempfile.TemporaryDirectory(prefix="costrel-bench-") as directory:
        home = pathlib.Path(directory)
        invoke_costs(home)
        staging(home)
        pulling(home)


main()

#!/usr/bin/env python3
"""Measures `costrel serve`: warm invokes beside AWS's emulator, throughput, cold starts, memory.

`scripts/bench-serve.py [warm] [throughput] [cold] [memory]` measures only that. Part of `make bench`.
"""

import base64
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

from bench import COSTREL, INPUTS, ROOT, environment_of, row, title

CALLS = int(os.environ.get("BENCH_CALLS", "400"))
COLD_STARTS = int(os.environ.get("BENCH_COLD_STARTS", "40"))


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Client:
    """One kept-alive connection, as the SDKs keep them."""

    def __init__(self, port, path):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.path = path

    def invoke(self, event=b'{"name":"x"}'):
        """How long the answer took, in ms."""
        began = time.perf_counter()
        self.connection.request("POST", self.path, event)
        response = self.connection.getresponse()
        body = response.read()
        took = (time.perf_counter() - began) * 1000
        if response.status != 200 or response.getheader("X-Amz-Function-Error"):
            sys.exit(f"failed: {response.status} {body[:400]}")
        return took


@contextlib.contextmanager
def process(*command, **options):
    """Runs a command until the block is left, and asks it to end."""
    child = subprocess.Popen(list(map(str, command)), **options)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def serve(home, *options):
    """A server; gives its process and port."""
    command = [COSTREL, "serve", "--listen", "127.0.0.1:0", *options]
    with process(*command, env=environment_of(home), stderr=subprocess.PIPE, text=True, bufsize=1) as child:
        said = ""
        for line in child.stderr:
            said += line
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            sys.exit(f"failed: costrel serve\n{said}")
        threading.Thread(target=lambda: [None for _ in child.stderr], daemon=True).start()
        yield child, int(found[1])


def project(home, **functions):
    """A directory whose functions `costrel serve` finds."""
    directory = home / "project"
    directory.mkdir(exist_ok=True)
    text = ""
    for name, settings in functions.items():
        text += f"[functions.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    (directory / "costrel.toml").write_text(text)
    return directory


RUST = {"runtime": "provided.al2023", "code": str(INPUTS / "rust-function.zip"), "memory": 128, "timeout": 60}
PYTHON = {
    "runtime": "python3.11", "image": f"oci:{INPUTS / 'python-image'}", "handler": "cases.echo",
    "code": str(ROOT / "examples/python-cases"), "memory": 256, "timeout": 60,
}


def invocations(name):
    return f"/2015-03-31/functions/{name}/invocations"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def rie():
    """AWS's Runtime Interface Emulator, with AWS's client for Python beside it."""
    script = subprocess.run([ROOT / "scripts/rie.sh"], check=True, capture_output=True, text=True)
    return pathlib.Path(script.stdout.strip())


@contextlib.contextmanager
def emulator(*runtime, **options):
    """AWS's Runtime Interface Emulator with this runtime beneath it; gives its port."""
    port, inner = free_port(), free_port()
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}", "--runtime-api-address", f"127.0.0.1:{inner}"]
    with process(rie(), *addresses, *runtime, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options):
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if time.monotonic() > deadline:
                sys.exit("failed: AWS's emulator does not listen")
            time.sleep(0.05)
        yield port


def warm(home):
    title(f"A warm invoke over HTTP, emulated, beside AWS's emulator with the same runtime on the host ({CALLS} calls each, interleaved)")
    bootstrap = home / "bootstrap"
    with zipfile.ZipFile(INPUTS / "rust-function.zip") as archive:
        bootstrap.write_bytes(archive.read("bootstrap"))
    bootstrap.chmod(0o755)
    python = {**os.environ, "PYTHONPATH": f"{rie().with_name('client')}:{ROOT / 'examples/python-cases'}"}
    with serve(home, project(home, rust=RUST, python=PYTHON)) as (_, port):
        for name, handler, peer in (
            ("rust", "Rust on lambda_runtime", emulator(bootstrap)),
            ("python", "Python on awslambdaric", emulator("python3", "-m", "awslambdaric", "cases.echo", env=python)),
        ):
            with peer as peer_port:
                ours, theirs = Client(port, invocations(name)), Client(peer_port, invocations("function"))
                for client in (ours, theirs):
                    for _ in range(20):
                        client.invoke()
                pairs = [(ours.invoke(), theirs.invoke()) for _ in range(CALLS)]
            mine, other = zip(*pairs)
            for share, label in ((0.5, "p50"), (0.99, "p99")):
                a, b = percentile(mine, share), percentile(other, share)
                target = "at most 2 x RIE's" if share == 0.5 else ""
                row(f"{handler}: {label}", f"{a:.2f} ms", target, f"{a / b:.2f} of RIE's {b:.2f} ms")


def throughput(home):
    title("Invokes a second, emulated, a Rust function")
    with serve(home, project(home, rust=RUST)) as (_, port):
        for instances in (1, 8):
            clients = [Client(port, invocations("rust")) for _ in range(instances)]
            with concurrent.futures.ThreadPoolExecutor(instances) as threads:
                # So many callers at once get so many instances.
                list(threads.map(lambda client: client.invoke(b'{"case":"sleep","seconds":1.5}'), clients))
                began, calls = time.monotonic(), 800 // instances
                list(threads.map(lambda client: [client.invoke() for _ in range(calls)], clients))
                took = time.monotonic() - began
            row(f"{instances} instance{'s' * (instances > 1)}, as many callers", f"{instances * calls / took:.0f} /s")


def instances(port):
    """How many there are, whatever they do."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    figures = connection.getresponse().read().decode()
    return sum(int(count) for count in re.findall(r"^costrel_instances\{.*\} (\d+)$", figures, re.M))


def cold(home):
    title(f"A cold start from a snapshot over HTTP, emulated ({COLD_STARTS} of them)")
    with serve(home, project(home, rust=RUST, python=PYTHON), "--idle", "0") as (_, port):
        for name, handler in (("rust", "Rust on lambda_runtime"), ("python", "Python on awslambdaric")):
            client = Client(port, invocations(name))
            # The first one boots and takes the snapshot.
            client.invoke()
            times = []
            for _ in range(COLD_STARTS):
                while instances(port):
                    time.sleep(0.05)
                times.append(client.invoke())
            row(f"{handler}: p50", f"{percentile(times, 0.5):.0f} ms")
            row(f"{handler}: p99", f"{percentile(times, 0.99):.0f} ms")


def resident_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def memory(home):
    title("The server's memory")
    code = base64.b64encode((INPUTS / "rust-function.zip").read_bytes()).decode()
    with serve(home, "--state", home / "thousand") as (server, port):
        row("without a function", f"{resident_mib(server.pid):.1f} MiB")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(1000):
            function = {
                "FunctionName": f"f{number}", "Runtime": "provided.al2023", "Handler": "bootstrap",
                "Role": "arn:aws:iam::000000000000:role/r", "Code": {"ZipFile": code},
            }
            connection.request("POST", "/2015-03-31/functions", json.dumps(function))
            response = connection.getresponse()
            if (body := response.read()) and response.status != 201:
                sys.exit(f"failed: {response.status} {body[:400]}")
        row("after 1,000 functions were uploaded", f"{resident_mib(server.pid):.1f} MiB")
    began = time.monotonic()
    with serve(home, "--state", home / "thousand") as (server, port):
        ready = time.monotonic() - began
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        listed, marker = 0, ""
        while marker is not None:
            connection.request("GET", f"/2015-03-31/functions?Marker={marker}" if marker else "/2015-03-31/functions")
            page = json.loads(connection.getresponse().read())
            listed, marker = listed + len(page["Functions"]), page.get("NextMarker")
        row(f"started again, {listed} functions listed", f"{resident_mib(server.pid):.1f} MiB", "", f"listens after {ready * 1000:.0f} ms")


def main():
    sections = {"warm": warm, "throughput": throughput, "cold": cold, "memory": memory}
    for name in sys.argv[1:] or sections:
        with tempfile.TemporaryDirectory(prefix="costrel-bench-") as directory:
            sections[name](pathlib.Path(directory))


main()

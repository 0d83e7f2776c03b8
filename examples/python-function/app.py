"""The demo: greets by the event's name, and tells what machine it runs on."""

import os
import pathlib
import platform
import socket
import time

try:
    from greeting_layer import greeting
except ImportError:  # invoked without the layer

    def greeting(name: str) -> str:
        return f"Hello {name}"


STARTED = time.time()


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError as error:
        return f"({error.strerror})"


def _memory_mib() -> int:
    pages = os.sysconf("SC_PHYS_PAGES")
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def handler(event, context):
    print("hello from inside the VM")
    return {
        "greeting": greeting(event.get("name", "world")),
        "python": platform.python_version(),
        "function": context.function_name,
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "vm": {
            "kernel": platform.release(),
            "hostname": socket.gethostname(),
            "uptime_s": float(_read("/proc/uptime").split()[0]),
            "cpus": os.cpu_count(),
            "memory_mib": _memory_mib(),
            "pid1": _read("/proc/1/comm"),
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "cwd": os.getcwd(),
        },
        "layers": sorted(str(p) for p in pathlib.Path("/opt").rglob("*") if p.is_file())[:20],
        "warm_for_s": round(time.time() - STARTED, 3),
    }

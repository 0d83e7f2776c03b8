"""One handler for each way a function can end, for the tests."""

import errno
import os
import signal
import sys
import time

INVOCATIONS = 0


class OrderRejected(Exception):
    """An error of the function's own."""


def echo(event, context):
    """The event as it came, and how often this process was invoked."""
    global INVOCATIONS
    INVOCATIONS += 1
    return {"event": event, "invocations": INVOCATIONS, "pid": os.getpid()}


def raises(event, context):
    raise OrderRejected("no stock left")


def raises_if_asked(event, context):
    """Fails one invocation and serves the next, in the same process."""
    if event.get("fail"):
        raise ValueError("asked to fail")
    return echo(event, context)


def exits(event, context):
    """sys.exit, which the runtime client turns into an exit of the process."""
    sys.exit(event.get("code", 3))


def exits_at_once(event, context):
    """No clean-up, no last word: the process is gone."""
    os._exit(event.get("code", 3))


def exits_cleanly(event, context):
    os._exit(0)


def killed(event, context):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(event, context):
    """Past its timeout, unless the event says otherwise."""
    time.sleep(event.get("seconds", 60))
    return "slept"


def spins(event, context):
    """Past its timeout as well, with the CPU busy."""
    end = time.monotonic() + event.get("seconds", 60)
    while time.monotonic() < end:
        pass
    return "spun"


def returns_7_mb(event, context):
    return "x" * 7_000_000


def returns_6_mb(event, context):
    """Just within the limit: with its quotes exactly 6,291,556 bytes of JSON."""
    return "x" * (6_291_556 - 2)


def not_serializable(event, context):
    return {"a set": {1, 2, 3}}


def logs(event, context):
    """Numbered lines to standard output, a tenth as many to standard error."""
    lines = event.get("lines", 100_000)
    for number in range(lines):
        sys.stdout.write(f"line {number}\n")
        if number % 10 == 0:
            sys.stderr.write(f"error line {number}\n")
    return {"lines": lines}


def logs_then_exits(event, context):
    """Nothing that was written may get lost when the process ends."""
    for number in range(event.get("lines", 1000)):
        os.write(1, b"last line %d\n" % number)
    os._exit(3)


def environment(event, context):
    """The environment, the working directory and who we are."""
    return {
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "path": sys.path,
        "limits": {
            "remaining_ms": context.get_remaining_time_in_millis(),
            "memory": context.memory_limit_in_mb,
        },
    }


def _try_to_write(path):
    try:
        with open(path, "w") as file:
            file.write("x")
        os.unlink(path)
        return "written"
    except OSError as error:
        return errno.errorcode[error.errno]


def writes(event, context):
    """Only /tmp takes files; what it holds stays for the next invocation."""
    before = sorted(os.listdir("/tmp"))
    with open("/tmp/kept", "a") as file:
        file.write("x")
    script = "/tmp/run.sh"
    with open(script, "w") as file:
        file.write("#!/bin/sh\nexit 42\n")
    os.chmod(script, 0o755)
    space = os.statvfs("/tmp")
    return {
        "before": before,
        "kept": os.path.getsize("/tmp/kept"),
        "script": os.waitstatus_to_exitcode(os.system(script)),
        "tmp_mib": space.f_blocks * space.f_frsize >> 20,
        **{path: _try_to_write(f"{path}/probe") for path in ("/", "/var/task", "/opt", "/var/runtime", "/etc", "/usr")},
    }


def fills_tmp(event, context):
    """Until there is no space left, in MiB."""
    block, written = b"x" * (1 << 20), 0
    try:
        with open("/tmp/full", "wb", buffering=0) as file:
            while True:
                written += file.write(block)
    except OSError as error:
        return {"mib": written >> 20, "error": errno.errorcode[error.errno]}
    finally:
        os.unlink("/tmp/full")


def allocates(event, context):
    """Touches memory until there is none, or as many MiB as the event says."""
    limit = event.get("mib", 1 << 20)
    held = []
    while len(held) < limit:
        held.append(bytearray(os.urandom(4096) * 256))
    return {"mib": len(held)}


def forks(event, context):
    """Leaves an orphan behind that PID 1 must reap."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            time.sleep(0.1)
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(event.get("seconds", 0.3))
    zombies = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                zombies += file.read().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            pass
    return {"zombies": zombies}

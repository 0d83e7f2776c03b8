#!/usr/bin/env python3
"""Runs test programs that cargo has built, some at a time, and sums them up.

    run-tests.py plan MESSAGES NAME[=PREFIX[,PREFIX…]]… >PLAN
    run-tests.py run PLAN JOBS SECONDS RECORD
    run-tests.py sum PLAN RECORD

MESSAGES are cargo's, of `cargo test --no-run --message-format=json`. NAME is a package or one of its
test programs. With `=`, each test whose name begins with a PREFIX (an empty one fits all) becomes a
process of its own; without, a program runs its tests itself. They start in the order of the NAMEs.
SECONDS limit each process. RECORD gets a line for each that has ended, and is touched every few
seconds: who runs this in a machine can tell when that has stopped. What is on record already is not run
again.

What fails runs once more, and the sum says so: an emulated CPU makes a fault of its own in some hundred
machines. A test that prints a line `skipped: …` counts as skipped. `sum` exits with 0 if some test passed, none
failed, and all of the plan was run.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time


def programs(messages):
    """The test programs that cargo told of: package, target, file, the package's directory."""
    for line in pathlib.Path(messages).read_text().splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            manifest = pathlib.Path(message["manifest_path"])
            package = re.search(r'^name = "(.*)"', manifest.read_text(), re.M)[1]
            yield package, message["target"]["name"], message["executable"], str(manifest.parent)


def tests_of(program):
    listed = subprocess.run([program, "--list", "--format", "terse"], stdout=subprocess.PIPE, text=True, check=True)
    return [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]


def plan(messages, names):
    entries, unused = {name.partition("=")[0]: [] for name in names}, {name.partition("=")[0]: name.partition("=")[1:] for name in names}
    wanted = dict(unused)
    for package, target, program, directory in programs(messages):
        name = target if target in wanted else package
        if name not in wanted:
            continue
        unused.pop(name, None)
        entry = {"name": target if target == name else f"{package} {target}", "program": program, "directory": directory}
        one_by_one, prefixes = wanted[name]
        if not one_by_one:
            entries[name].append(entry)
            continue
        tests = tests_of(program)
        for prefix in prefixes.split(","):
            found = [test for test in tests if test.startswith(prefix)]
            if not found:
                sys.exit(f"run-tests.py: {name} has no test that begins with {prefix!r}")
            entries[name] += [{**entry, "test": test} for test in found]
    if unused:
        sys.exit(f"run-tests.py: cargo built no test program {', '.join(unused)}")
    json.dump([entry for name in entries for entry in entries[name]], sys.stdout)


class Outcome:
    """What came of a process."""

    first = None

    def __init__(self, entry, limit):
        began = time.monotonic()
        arguments = ["--exact", entry["test"], "--nocapture"] if "test" in entry else ["--show-output"]
        process = subprocess.Popen(
            [entry["program"], *arguments, "--test-threads", "2"], cwd=entry["directory"], start_new_session=True,
            env={**os.environ, "CARGO_MANIFEST_DIR": entry["directory"]},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nended after {limit:.0f} s\n".encode()
        self.output = output.decode(errors="replace")
        self.seconds = time.monotonic() - began
        self.name = name_of(entry)
        self.lacking = re.findall(r"^.*?\bskipped: (.*)", self.output, re.M)
        ignored_ones = re.findall(r"^test (\S+) \.\.\. ignored(?:, (.*))?", self.output, re.M)
        results = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", self.output, re.M)
        self.passed, self.failed, _ = (sum(int(count) for count in counts) for counts in zip(*results)) if results else (0, 0, 0)
        self.passed = max(0, self.passed - len(self.lacking))
        self.lacking += [f"{test}: {reason or 'ignored'}" for test, reason in ignored_ones]
        self.skipped = len(self.lacking)
        if process.returncode != 0 and not self.failed:
            self.failed = 1

    def again(self, entry, limit):
        """A second attempt where the first failed: with an emulated CPU, a failure may be the CPU's."""
        if not self.failed:
            return self
        second = Outcome(entry, limit)
        second.first = self
        return second

    def print(self):
        if self.first:
            self.first.print()
            print("  once more:", flush=True)
        word = "FAIL" if self.failed else "pass" if self.passed else "skip" if self.skipped else "none"
        count = self.passed + self.failed + self.skipped
        print(f"  {word} {self.seconds:6.1f} s  {self.name}{f' ({count} tests)' if count != 1 else ''}", flush=True)
        for what in self.lacking:
            print(f"                 skipped: {what}", flush=True)
        if self.failed:
            print("".join(f"    | {line}\n" for line in self.output.splitlines()), end="", flush=True)


def name_of(entry):
    return f"{entry['name']} {entry.get('test', '')}".rstrip()


def recorded(record):
    """What is on record, by the names of the plan's entries."""
    lines = map(json.loads, pathlib.Path(record).read_text().splitlines())
    return {line["name"]: line for line in lines}


def beat(record):
    while True:
        os.utime(record)
        time.sleep(5)


def run(plan_file, jobs, seconds, record):
    done = recorded(record)
    entries = [entry for entry in json.loads(pathlib.Path(plan_file).read_text()) if name_of(entry) not in done]
    threading.Thread(target=beat, args=(record,), daemon=True).start()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool, open(record, "a") as lines:
        for future in concurrent.futures.as_completed([pool.submit(lambda entry: Outcome(entry, seconds).again(entry, seconds), entry) for entry in entries]):
            outcome = future.result()
            outcome.print()
            line = {what: getattr(outcome, what) for what in ("name", "passed", "failed", "skipped")}
            line["flaky"] = bool(outcome.first) and not outcome.failed
            print(json.dumps(line), file=lines, flush=True)


def sum_up(plan_file, record):
    names = [name_of(entry) for entry in json.loads(pathlib.Path(plan_file).read_text())]
    done = recorded(record)
    passed, failed, skipped = (sum(line[what] for line in done.values()) for what in ("passed", "failed", "skipped"))
    missing = [name for name in names if name not in done]
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    for name in [name for name in names if name in done and done[name]["failed"]]:
        print(f"  failed: {name}", flush=True)
    for name in [name for name in names if name in done and done[name]["flaky"]]:
        print(f"  passed only at the second attempt: {name}", flush=True)
    for name in missing:
        print(f"  not run: {name}", flush=True)
    sys.exit(0 if passed and not failed and not missing else 1)


match sys.argv[1:]:
    case ["plan", messages, *names] if names:
        plan(messages, names)
    case ["run", plan_file, jobs, seconds, record]:
        run(plan_file, int(jobs), float(seconds), record)
    case ["sum", plan_file, record]:
        sum_up(plan_file, record)
    case _:
        sys.exit(__doc__)

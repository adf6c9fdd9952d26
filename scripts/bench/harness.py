"""What the benchmarks share: starting and stopping servers, driving them, the table of results, the command line."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RELEASE = TARGET / "release"
WORKERS = 1000


class Failed(Exception):
    """A section could not be measured, or what it saw is wrong."""


# ---- processes ---------------------------------------------------------------------------------


class Server:
    """A started server: `ms` is the time from exec to its first line on stdout, `port` is in it."""

    def __init__(self, command, ready):
        # A session of its own: ^C must reach us alone, and a daemon has one too.
        self.log = tempfile.TemporaryFile("w+")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
            stderr=self.log, text=True, start_new_session=True)
        self.pid = self.process.pid
        try:
            self.line = self._first_line(timeout=60)
            self.ms = (time.monotonic() - began) * 1e3
            found = re.match(ready, self.line)
            if not found:
                last = self.said().strip().splitlines()[-1:]
                raise Failed(f"not ready: {' '.join(map(str, command))}: {self.line.strip()} {' '.join(last)}")
            self.port = int(found["port"])
        except BaseException:
            self.stop()
            raise

    def _first_line(self, timeout):
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            return ""
        return self.process.stdout.readline()

    def said(self):
        """Its stderr so far: opened anew, since the server shares our descriptor's position."""
        return pathlib.Path(f"/proc/self/fd/{self.log.fileno()}").read_text(errors="replace")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # whoever outlived it; the group is ours alone
        self.process.stdout.close()
        self.log.close()

    def children(self, comm):
        """The pids of the direct children that are called `comm`."""
        pids = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in pids if name_of(pid) == comm]


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def ours(*options, workers=WORKERS, pool=None, prefix=()):
    """The supervisor with a new run directory in memory and a new spool on disk. `pool` is a dynamic pool's options
    instead of a fixed number of workers."""
    pool = pool or ("--workers", workers)
    with contextlib.ExitStack() as undo:
        run_dir = tempfile.mkdtemp(prefix="holdfast-bench-", dir="/dev/shm")
        undo.callback(shutil.rmtree, run_dir, ignore_errors=True)
        spool_dir = tempfile.mkdtemp(prefix="holdfast-bench-", dir="/var/tmp")
        undo.callback(shutil.rmtree, spool_dir, ignore_errors=True)
        server = Server(
            [*prefix, RELEASE / "supervisor", *pool, "--listen", "tcp:127.0.0.1:0",
             "--run-dir", run_dir, "--spool-dir", spool_dir, *options],
            rf"Running with \d+ workers on .*tcp:127\.0\.0\.1:(?P<port>\d+)")
        undo.callback(server.stop)
        server.run_dir, server.spool_dir = pathlib.Path(run_dir), pathlib.Path(spool_dir)
        yield server


def cclient_command(port, connections, *options):
    return [str(word) for word in
            (RELEASE / "cclient", "127.0.0.1", port, connections, "arijort:bench", "--json", *options)]


def cclient(port, connections, *options):
    done = subprocess.run(cclient_command(port, connections, *options), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return report_of(done.stdout, done.stderr)


def report_of(stdout, stderr):
    """cclient's JSON object, which may follow lines for people."""
    found = re.search(r"^\{.*\}", stdout, re.MULTILINE | re.DOTALL)
    if not found:
        raise Failed(f"cclient printed no JSON: {(stderr or stdout).strip()[:200]}")
    report = json.loads(found[0])
    errors = report["errors"]
    report["errors"] = sum(errors.values()) if isinstance(errors, dict) else errors
    return report


def status(server):
    done = subprocess.run([RELEASE / "supervisor", "status", "--json", "--run-dir", server.run_dir],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise Failed(f"supervisor status: {done.stderr.strip()}")
    return json.loads(done.stdout)


def wait_for(what, condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


# ---- results -----------------------------------------------------------------------------------


class Table:
    def __init__(self):
        self.missed = []
        print(f"{'':34}{'ours':>14}{'floor':>14}  {'ratio (min..max)':22}{'target':>10}", flush=True)

    def row(self, name, ours, floor="", ratio="", target="", ok=True):
        verdict = "ok" if ok else "MISSED"
        print(f"{name:34}{ours:>14}{floor:>14}  {ratio:22}{target:>10}  {verdict}", flush=True)
        if not ok:
            self.missed.append(name)

    def pairs(self, name, pairs, unit, at_least=None, at_most=None):
        """One line for [(ours, floor)] of several rounds, judged by the median ratio."""
        ratios = [mine / theirs for mine, theirs in pairs]
        ratio = statistics.median(ratios)
        ok = (not at_least or ratio >= at_least) and (not at_most or ratio <= at_most)
        target = f">= {at_least}" if at_least else f"<= {at_most}" if at_most else ""
        mine, theirs = (statistics.median(side) for side in zip(*pairs))
        self.row(name, f"{mine:,.0f} {unit}", f"{theirs:,.0f} {unit}",
                 f"{ratio:.2f} ({min(ratios):.2f}..{max(ratios):.2f})", target, ok)


def in_turn(rounds, mine, theirs):
    """[(mine(), theirs())] of several rounds; who goes first alternates."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second, first = theirs(), mine()
        else:
            first, second = mine(), theirs()
        pairs.append((first, second))
    return pairs


# ---- running -----------------------------------------------------------------------------------


def compiled(name):
    """The program of `name`.c beside this file."""
    program = TARGET / "bench" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    source = pathlib.Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)
    return program


def cargo_build(*what):
    subprocess.run(["cargo", "build", "--release", "--quiet", *what], cwd=ROOT, check=True)


def main(name, doc, sections, build):
    """Parses the command line, builds, measures what was asked for, and exits."""
    usage = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    usage.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    usage.add_argument("--quick", action="store_true", help="shorter and fewer runs: a look, not a proof")
    usage.add_argument("--rounds", type=int, help="rounds of each comparison (7, quick 3)")
    usage.add_argument("--no-build", action="store_true", help="measure what is already built")
    args = usage.parse_args()
    unknown = [section for section in args.sections if section not in sections]
    if unknown:
        usage.error(f"unknown section {unknown[0]}; there are {', '.join(sections)}")
    args.rounds = args.rounds or (3 if args.quick else 7)
    # A terminated benchmark cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        if not args.no_build:
            build()
        sys.exit(measure(sections, args))
    except KeyboardInterrupt:
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{name}: {error}")


def measure(sections, args):
    table = Table()
    for name in args.sections or sections:
        try:
            sections[name](table, args)
        except (Failed, OSError, KeyError, ValueError, IndexError) as error:
            table.row(name, "failed", ok=False)
            print(f"    {type(error).__name__}: {error}")
    if table.missed:
        print(f"missed: {', '.join(table.missed)}")
    return 1 if table.missed else 0

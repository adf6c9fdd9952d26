"""What the benchmarks share: starting and stopping servers, driving them, the table of results, the command line."""

import argparse
import collections
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
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RELEASE = TARGET / "release"
WORKERS = 1000
# A pool that grows: what `acquired` starts.
DYNAMIC_POOL = ("--min-workers", 5, "--max-workers", WORKERS, "--min-spare", 5, "--max-spare", 20)


class Failed(Exception):
    """A section could not be measured, or what it saw is wrong."""


# ---- processes ---------------------------------------------------------------------------------


class Server:
    """A started server: `ms` is the time from exec to its first line on stdout, `port` is in it."""

    def __init__(self, command, ready, patience=60):
        # A session of its own: ^C must reach us alone, and a daemon has one too.
        self.log = tempfile.TemporaryFile("w+")
        self.rest = None
        began = time.monotonic()
        self.process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
            stderr=self.log, text=True, start_new_session=True)
        self.pid = self.process.pid
        try:
            self.line = self._first_line(timeout=patience)
            self.ms = (time.monotonic() - began) * 1e3
            found = re.match(ready, self.line)
            if not found:
                last = self.said().strip().splitlines()[-1:]
                raise Failed(f"not ready: {' '.join(map(str, command))}: {self.line.strip()} {' '.join(last)}")
            self.port = int(found["port"])
            # Whoever says more must not come to stand at a full pipe.
            self.rest = threading.Thread(target=lambda: collections.deque(self.process.stdout, maxlen=0), daemon=True)
            self.rest.start()
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
            # A thousand take their time to die, which is not the next server's. Nobody may be there who reaps them.
            with contextlib.suppress(Failed):
                wait_for("those who outlived it to be gone", lambda: not group_exists(self.pid), seconds=20)
        if self.rest:
            self.rest.join(timeout=20)
        self.process.stdout.close()
        self.log.close()

    def children(self, comm):
        """The pids of the direct children that are called `comm`."""
        pids = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in pids if name_of(pid) == comm]


def group_exists(pgid):
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def ours(*options, workers=WORKERS, pool=None, prefix=(), programs=None, patience=60):
    """The supervisor with a new run directory in memory and a new spool on disk. `pool` is a dynamic pool's options
    instead of a fixed number of workers; `programs` is the directory of another build."""
    programs = programs or RELEASE
    pool = pool or ("--workers", workers)
    with contextlib.ExitStack() as undo:
        run_dir = tempfile.mkdtemp(prefix="holdfast-bench-", dir="/dev/shm")
        undo.callback(shutil.rmtree, run_dir, ignore_errors=True)
        spool_dir = tempfile.mkdtemp(prefix="holdfast-bench-", dir="/var/tmp")
        undo.callback(shutil.rmtree, spool_dir, ignore_errors=True)
        server = Server(
            [*prefix, programs / "supervisor", *pool, "--listen", "tcp:127.0.0.1:0",
             "--run-dir", run_dir, "--spool-dir", spool_dir, *options],
            rf"Running with \d+ workers on .*tcp:127\.0\.0\.1:(?P<port>\d+)", patience)
        undo.callback(server.stop)
        server.run_dir, server.spool_dir = pathlib.Path(run_dir), pathlib.Path(spool_dir)
        server.programs = programs
        yield server


@contextlib.contextmanager
def floor(keep_alive=False, workers=WORKERS, prefix=()):
    """The bare pre-forking server, floor.c."""
    command = [*prefix, TARGET / "bench" / "floor", 0, workers] + (["--keep-alive"] if keep_alive else [])
    server = Server(command, r"Forked .* on tcp:127\.0\.0\.1:(?P<port>\d+) in (?P<ms>[\d.]+) ms")
    try:
        yield server
    finally:
        server.stop()


def cclient_command(port, connections, *options):
    return [str(word) for word in
            (RELEASE / "cclient", "127.0.0.1", port, connections, "arijort:bench", "--json", *options)]


def planned(port, connections, rate, *options):
    """cclient --rate, which goes before the server where that is permitted: on a machine of its own nobody would keep it
    from sending in time. It takes no more of the processors for that."""
    before = ("nice", "-n", "-10") if os.geteuid() == 0 else ()
    return cclient(port, connections, "--rate", rate, *options, before=before)


def cclient(port, connections, *options, before=()):
    done = subprocess.run([*before, *cclient_command(port, connections, *options)], text=True,
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
    done = subprocess.run([server.programs / "supervisor", "status", "--json", "--run-dir", server.run_dir],
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


class MemoryGroup:
    """A control group of its own around one server.

    Its charge holds what the processes own (private pages, and the kernel's page tables, stacks,
    descriptors), whatever else the machine does meanwhile. File pages are taken off on both sides:
    they are the region (tmpfs is counted there), the programs' text and the journal, all of which
    the kernel shares or can drop. Where no group can be made (not root), the fall in MemAvailable
    is used, corrected by the rise in Shmem; other programs disturb that, hence the median.
    """

    def __init__(self):
        self.path, above = None, control_group("memory")
        if not above:
            return
        path = above / f"holdfast-bench-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            return
        usage = [path / name for name in ("memory.usage_in_bytes", "memory.current")]
        self.usage = next((file for file in usage if file.exists()), None)
        if self.usage:
            self.path = path
        else:
            path.rmdir()

    def prefix(self):
        """What to put before a command so that it starts inside the group."""
        if not self.path:
            return ()
        return ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', self.path / "cgroup.procs")

    def used(self):
        if self.path:
            pairs = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
            return int(self.usage.read_text()) - int(pairs.get("cache", pairs.get("file", 0)))
        info = dict(re.findall(r"(\w+): +(\d+)", pathlib.Path("/proc/meminfo").read_text()))
        return -1024 * (int(info["MemAvailable"]) + int(info["Shmem"]))

    def split(self):
        """Bytes that the processes have of their own, and bytes that the kernel keeps for them."""
        if not self.path:
            raise Failed("there is no control group for memory here: only root can have one")
        pairs = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        own = int(pairs.get("rss", pairs.get("anon", 0)))
        kernel = self.path / "memory.kmem.usage_in_bytes"
        return own, int(kernel.read_text() if kernel.exists() else pairs["kernel"])

    def close(self):
        if self.path:
            remove_group(self.path)


@contextlib.contextmanager
def capped(processes):
    """This process and all that it starts, in a control group that cannot have more processes than so many, where there
    can be one: forks that run away take a machine down."""
    former, group = control_group("pids"), None
    if former:
        group = former / f"holdfast-bench-{os.getpid()}"
        try:
            group.mkdir()
            (group / "pids.max").write_text(str(processes))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            group = None
    if not group:
        print("no limit of processes can be set here: only the servers' own bounds hold", flush=True)
    try:
        yield
    finally:
        if group:
            (former / "cgroup.procs").write_text(str(os.getpid()))
            remove_group(group)


def control_group(controller):
    """Where this process's groups of a controller are: the directory in which new ones can be made, if there is one."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        base = {controller: f"/sys/fs/cgroup/{controller}", "": "/sys/fs/cgroup"}.get(controllers)
        path = pathlib.Path(base + inside.rstrip("/")) if base else None
        if path and path.is_dir():
            return path
    return None


def remove_group(group):
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:  # the dead leave with a delay
            time.sleep(0.05)


# ---- results -----------------------------------------------------------------------------------


class Table:
    def __init__(self):
        self.missed = []
        print(f"{'':42}{'ours':>14}{'floor':>14}  {'ratio (min..max)':22}{'target':>10}", flush=True)

    def row(self, name, ours, floor="", ratio="", target="", ok=True, **figures):
        verdict = "ok" if ok else "MISSED"
        print(f"{name:42}{ours:>14}{floor:>14}  {ratio:22}{target:>10}  {verdict}", flush=True)
        if not ok:
            self.missed.append(name)
        keep(name=name, ours=ours, theirs=floor, spread=ratio, target=target, ok=ok, **figures)

    def pairs(self, name, pairs, unit, at_least=None, at_most=None):
        """One line for [(ours, floor)] of several rounds, judged by the median ratio. Gives that and its spread, in words."""
        ratios = [mine / theirs for mine, theirs in pairs]
        ratio = statistics.median(ratios)
        ok = (not at_least or ratio >= at_least) and (not at_most or ratio <= at_most)
        target = f">= {at_least}" if at_least else f"<= {at_most}" if at_most else ""
        mine, theirs = (statistics.median(side) for side in zip(*pairs))
        spread = f"{ratio:.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        self.row(name, f"{mine:,.0f} {unit}", f"{theirs:,.0f} {unit}", spread, target, ok,
                 ratio_value=ratio, least=min(ratios), most=max(ratios),
                 more=bool(at_least) or (not at_most and unit.endswith("/s")))
        return spread


def keep(**row):
    """Writes a row where scripts/bench/all reads them, if it runs this."""
    if "HOLDFAST_BENCH_ROWS" in os.environ:
        with open(os.environ["HOLDFAST_BENCH_ROWS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


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


def in_rotation(rounds, takes):
    """[[take() of each round] for each take]; who goes first changes with every round."""
    taken = [[] for _ in takes]
    for number in range(rounds):
        for step in range(len(takes)):
            which = (number + step) % len(takes)
            taken[which].append(takes[which]())
    return taken


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

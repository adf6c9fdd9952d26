"""Limits of the machine that a measurement of many processes needs raised, and put back as they were afterwards."""

import contextlib
import pathlib
import resource


@contextlib.contextmanager
def raised(processes, connections):
    """As far as this user may: the kernel's limits of pids, threads and of a listening socket's queue, and this process's
    own of processes and descriptors. Gives the lines that say what could not be had."""
    wanted = {
        # A pid is not used again at once, so that room is needed beyond the processes that live.
        "kernel/pid_max": 2 * processes + 10_000,
        "kernel/threads-max": 2 * processes + 10_000,
        "net/core/somaxconn": connections + 1000,
        "fs/file-max": 4 * (processes + connections),
        # A client's port for each connection, and those that wait for a last packet.
        "net/ipv4/ip_local_port_range": (10_000, 65_000),
    }
    before, missing = {}, []
    for name, value in wanted.items():
        file = pathlib.Path("/proc/sys", name)
        now = file.read_text().split()
        if isinstance(value, tuple):
            enough = int(now[0]) <= value[0] and int(now[1]) >= value[1]
        else:
            enough = int(now[0]) >= value
        if enough:
            continue
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        try:
            file.write_text(text)
            before[file] = " ".join(now)
        except OSError:
            missing.append(f"{name.replace('/', '.')} is {' '.join(now)} and cannot be raised to {text}")
    former = {}
    for what, value in ((resource.RLIMIT_NPROC, 2 * processes + 10_000), (resource.RLIMIT_NOFILE, 4 * connections + 4000)):
        soft, hard = former[what] = resource.getrlimit(what)
        if soft == resource.RLIM_INFINITY or soft >= value:
            continue
        try:
            resource.setrlimit(what, (value, max(hard, value) if hard != resource.RLIM_INFINITY else hard))
        except (OSError, ValueError):
            # Not root, or root without the right to do it: as far as it goes.
            resource.setrlimit(what, (hard, hard))
            kind = "processes" if what == resource.RLIMIT_NPROC else "descriptors"
            missing.append(f"the limit of {kind} is {hard:,} and cannot be raised to {value:,}")
    try:
        yield missing
    finally:
        for file, value in before.items():
            with contextlib.suppress(OSError):
                file.write_text(value)
        for what, value in former.items():
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(what, value)

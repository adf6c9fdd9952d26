"""Kills random processes of a server at a rate, while something else is measured."""

import contextlib
import os
import pathlib
import random
import signal
import threading
import time

from harness import name_of


def kill_one(server, comm="worker"):
    """SIGKILL to a random child that is called `comm`; False where there is none. The pidfd is held before the name is
    checked, so a pid that was used again cannot be hit."""
    pids = pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    while pids:
        pid = pids.pop(random.randrange(len(pids)))
        try:
            pidfd = os.pidfd_open(int(pid))
        except OSError:
            continue
        try:
            if name_of(pid) == comm:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        except OSError:
            continue
        finally:
            os.close(pidfd)
    return False


@contextlib.contextmanager
def beside(server, comm, per_second):
    """Kills while the block runs. Gives a list that holds how many were killed once it has ended."""
    over, killed = threading.Event(), []

    def kill():
        began, count = time.monotonic(), 0
        while not over.wait(max(0, began + count / per_second - time.monotonic())):
            with contextlib.suppress(OSError):
                kill_one(server, comm)
            count += 1
        killed.append(count)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()

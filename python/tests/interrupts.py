"""Ctrl-C while the C library waits."""

import contextlib
import signal
import threading
from typing import Any, Iterator
from unittest import mock

from holdfast import _abi


class _Told:
    """The C library, which tells when one of its functions is about to be called."""

    def __init__(self, name: str) -> None:
        self._library, self._name, self.called = _abi.library, f"holdfast_{name}", threading.Event()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if name != self._name:
            return function

        def called(*arguments: Any) -> Any:
            # Whoever is told gets its turn when the function lets other threads run.
            self.called.set()
            return function(*arguments)

        return called


@contextlib.contextmanager
def within(name: str) -> Iterator[None]:
    """Interrupts this thread as soon as it is in this function."""
    told, this = _Told(name), threading.get_ident()
    # Whoever was started in the background by a shell ignores it.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        if told.called.wait(30):
            signal.pthread_kill(this, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with mock.patch.object(_abi, "library", told):
        thread.start()
        try:
            yield
        finally:
            thread.join()
            signal.signal(signal.SIGINT, former)

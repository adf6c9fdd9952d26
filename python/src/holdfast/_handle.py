"""What is opened and closed."""

import contextlib
import threading
import time
from types import TracebackType
from typing import Any, Iterator, Optional, Sequence, Type, TypeVar

from . import _abi
from ._abi import call, patiently
from ._errors import Busy, OutOfOrder

_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """Something that is closed once: by close(), at the end of `with`, or when nobody has it any more. Threads that use it
    together take turns; whoever closes it does not wait for them, and lets a call that is going on come to its end."""

    _close = ""

    _handle: Optional[int] = None

    #: What was closed while another thread was at it, which closes it then.
    _left: Optional[int] = None

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._turn = threading.RLock()

    @property
    def _open(self) -> int:
        handle = self._handle
        if handle is None:
            raise OutOfOrder("it is closed; open it again")
        return handle

    @contextlib.contextmanager
    def _within(self, timeout: float) -> Iterator[float]:
        """This thread's turn, for which others are waited for: how much of the time is left then."""
        began = time.monotonic()
        if not self._turn.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            raise Busy("another thread is at it for all that time")
        try:
            yield timeout - (time.monotonic() - began)
        finally:
            self._turn.release()
            self._close_left()

    def _patiently(self, timeout: float, name: str, *arguments: Any, after: Sequence[Any] = ()) -> None:
        """Calls a function that waits, in this thread's turn: between its arguments and those `after` comes the time."""
        with self._within(timeout) as left:
            handle = self._open
            patiently(left, lambda piece: call(name, handle, *arguments, piece, *after))

    def close(self) -> None:
        """Gives everything back. It may be called again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._left = handle
            self._close_left()

    def _close_left(self) -> None:
        """Closes what is to be closed, unless another thread is at it. That one looks here afterwards."""
        while self._left is not None and self._turn.acquire(blocking=False):
            try:
                handle, self._left = self._left, None
                # Another thread may have been faster, which the library tells.
                getattr(_abi.library, self._close)(handle)
            finally:
                self._turn.release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

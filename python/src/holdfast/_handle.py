"""What is opened and closed."""

import contextlib
import threading
import time
from types import TracebackType
from typing import Iterator, Optional, Type, TypeVar

from . import _abi
from ._errors import Busy, OutOfOrder

_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """Something that is closed once: by close(), at the end of `with`, or when nobody has it any more. Threads that use it
    together take turns; whoever closes it does not wait for them, and lets a call that is going on come to its end."""

    _close = ""

    def __init__(self, handle: int) -> None:
        self._handle: Optional[int] = handle
        self._turn = threading.RLock()

    @property
    def _open(self) -> int:
        handle = self._handle
        if handle is None:
            raise OutOfOrder("it is closed; open it again")
        return handle

    @contextlib.contextmanager
    def _within(self, timeout: float) -> Iterator[int]:
        """This thread's turn, for which others are waited for: how many milliseconds of the time are left then."""
        began = time.monotonic()
        if not self._turn.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            raise Busy("another thread is at it for all that time")
        try:
            yield _abi.milliseconds(timeout - (time.monotonic() - began))
        finally:
            self._turn.release()

    def close(self) -> None:
        """Gives everything back. It may be called again."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            # Another thread may have been faster, which the library tells.
            getattr(_abi.library, self._close)(handle)

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

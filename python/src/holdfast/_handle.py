"""What is opened and closed."""

from types import TracebackType
from typing import Optional, Type, TypeVar

from . import _abi
from ._errors import OutOfOrder

_Self = TypeVar("_Self", bound="Handle")


class Handle:
    """Something that is closed once: by close(), at the end of `with`, or when nobody has it any more. It is one thread's at
    a time: whoever closes it under another thread's call takes it from under that call's feet."""

    _close = ""

    def __init__(self, handle: int) -> None:
        self._handle: Optional[int] = handle

    @property
    def _open(self) -> int:
        if self._handle is None:
            raise OutOfOrder("it is closed; open it again")
        return self._handle

    def close(self) -> None:
        """Gives everything back. It may be called again."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
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

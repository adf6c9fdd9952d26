"""Blocks, as Python has things: context managers, exceptions, memoryviews."""

import ctypes
import os
from types import TracebackType
from typing import Any, Iterator, List, Optional, Tuple, Type, TypeVar, Union

from . import _abi
from ._abi import call, milliseconds, opened
from ._errors import Busy, OutOfOrder

Content = Union[bytes, bytearray, memoryview]
_Self = TypeVar("_Self", bound="_Handle")

#: How long is waited where nothing is said.
DEFAULT_TIMEOUT = 10.0


class _Handle:
    """Something that is closed once: by close(), at the end of `with`, or when nobody has it any more."""

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


class Blocks(_Handle):
    """A directory of blocks. It belongs to this user, and nobody else may write to it."""

    _close = "holdfast_blocks_close"

    @classmethod
    def open(cls, directory: Union[str, "os.PathLike[str]", None] = None) -> "Blocks":
        """One that is there. Without a name it is `blocks` in the run directory."""
        return cls(opened("blocks_open", _path(directory)))

    @classmethod
    def create(cls, directory: Union[str, "os.PathLike[str]", None] = None) -> "Blocks":
        """The same, made if it is not there."""
        return cls(opened("blocks_create", _path(directory)))

    def producer(self, name: str, *, size: int = 0, group: Optional[str] = None) -> "Producer":
        """A producer of the block `name`, which is there from the first content on. `size` bytes are reserved, and no
        more accepted; without it the block grows as needed. `group` is the group whose lock it shares."""
        return Producer(opened("producer_open", self._open, _text(name), size, group and _text(group)))

    def consumer(self, name: str) -> "Consumer":
        """A consumer of the block `name`."""
        return Consumer(opened("consumer_open", self._open, _text(name)))

    def group(self, name: str) -> "Group":
        """The group `name`, which need not be made."""
        return Group(opened("group_open", self._open, _text(name)))

    def remove(self, name: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Takes a block's name away. Consumers are told, producers begin another block."""
        call("blocks_remove", self._open, _text(name), milliseconds(timeout))

    def names(self) -> List[str]:
        """The name of every block, in order."""
        names: List[str] = []

        def each(name: bytes, _context: Any) -> None:
            names.append(name.decode())

        call("blocks_names", self._open, _abi.EACH_NAME(each), None)
        return names


class Producer(_Handle):
    """Writes one block."""

    _close = "holdfast_producer_close"

    def publish(self, content: Content, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Makes this the block's content, and gives its version."""
        version = ctypes.c_uint64()
        pointer, length, _kept = _pointer(content)
        call("producer_publish", self._open, pointer, length, milliseconds(timeout), ctypes.byref(version))
        return version.value

    def hold(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Takes the block's lock and keeps it: no other producer writes, and none that follows pays for locks."""
        call("producer_hold", self._open, milliseconds(timeout))

    def release(self) -> None:
        """Gives the lock back."""
        call("producer_release", self._open)


class Consumer(_Handle):
    """Reads one block."""

    _close = "holdfast_consumer_close"

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> bool:
        """Waits for something newer than what was read or pinned last; whether there is."""
        try:
            call("consumer_wait", self._open, milliseconds(timeout))
        except Busy:
            return False
        return True

    def read(self) -> bytes:
        """A copy of the newest content."""
        with self.pin() as pinned:
            return bytes(pinned.view)

    def pin(self) -> "Pinned":
        """The newest content as it lies in memory."""
        return Pinned(opened("consumer_pin", self._open))

    def follow(self, timeout: float = DEFAULT_TIMEOUT) -> Iterator[bytes]:
        """Each newer content as it comes, until none came for so long."""
        while self.wait(timeout):
            yield self.read()

    def lock(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Keeps every producer of the block, and of its group, waiting."""
        call("consumer_lock", self._open, milliseconds(timeout))

    def unlock(self) -> None:
        """Lets them go on."""
        call("consumer_unlock", self._open)


class Pinned(_Handle):
    """Content that no producer writes to as long as this is open: use `view` where it lies, within `with`."""

    _close = "holdfast_pinned_close"

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        length = _abi.library.holdfast_pinned_length(handle)
        array = (ctypes.c_ubyte * length).from_address(_abi.library.holdfast_pinned_data(handle))
        self._view: memoryview = memoryview(array).cast("B").toreadonly()

    @property
    def view(self) -> memoryview:
        """The bytes, not copied; numpy.frombuffer takes them as they are. Not to be used once this is closed."""
        if self._handle is None:
            raise OutOfOrder("it is closed; pin the content again")
        return self._view

    @property
    def version(self) -> int:
        """Its version."""
        return int(_abi.library.holdfast_pinned_version(self._open))

    def close(self) -> None:
        """Lets producers write there again. Whoever looks through `view` afterwards gets an exception; arrays that were
        made of it must be gone."""
        view = getattr(self, "_view", None)
        if view is not None:
            view.release()
        super().close()


class Group(_Handle):
    """Several blocks under one lock."""

    _close = "holdfast_group_close"

    def hold_for_reading(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Keeps every producer of the group waiting: what is read from its blocks meanwhile was there together."""
        call("group_hold_for_reading", self._open, milliseconds(timeout))

    def hold_for_writing(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Keeps every other producer of the group waiting, and every consumer that wants its lock."""
        call("group_hold_for_writing", self._open, milliseconds(timeout))

    def publish(self, producer: Producer, content: Content, timeout: float = DEFAULT_TIMEOUT) -> int:
        """As Producer.publish, for a block of the group, which is held for writing."""
        version = ctypes.c_uint64()
        pointer, length, _kept = _pointer(content)
        call(
            "group_publish", self._open, producer._open, pointer, length, milliseconds(timeout),
            ctypes.byref(version),
        )
        return version.value

    def release(self) -> None:
        """Gives the lock back."""
        call("group_release", self._open)


def _text(text: str) -> bytes:
    return text.encode()


def _path(path: Union[str, "os.PathLike[str]", None]) -> Optional[bytes]:
    return None if path is None else os.fsencode(path)


def _pointer(content: Content) -> Tuple[Any, int, Any]:
    """Where the bytes are, how many, and what keeps them there meanwhile. Only what is read-only and no `bytes` is copied."""
    if isinstance(content, bytes):
        return ctypes.c_char_p(content), len(content), content
    view = memoryview(content)
    if view.readonly or not view.contiguous:
        copy = view.tobytes()
        return ctypes.c_char_p(copy), len(copy), copy
    view = view.cast("B")
    array = (ctypes.c_ubyte * len(view)).from_buffer(view)
    return ctypes.cast(array, ctypes.c_void_p), len(view), array

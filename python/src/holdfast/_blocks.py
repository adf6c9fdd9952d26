"""Blocks, as Python has things: context managers, exceptions, memoryviews."""

import contextlib
import ctypes
import math
import os
import weakref
from typing import Any, Iterator, List, Optional, Union

from . import _abi
from ._abi import call, opened, patiently, word
from ._content import Content, path, pointer, text
from ._errors import Busy, OutOfOrder
from ._handle import Handle

#: How long is waited where nothing is said.
DEFAULT_TIMEOUT = 10.0


class Blocks(Handle):
    """A directory of blocks. It belongs to this user, and nobody else may write to it."""

    _close = "holdfast_blocks_close"

    @classmethod
    def open(cls, directory: Union[str, "os.PathLike[str]", None] = None) -> "Blocks":
        """One that is there. Without a name it is `blocks` in the run directory."""
        return cls(opened("blocks_open", path(directory)))

    @classmethod
    def create(cls, directory: Union[str, "os.PathLike[str]", None] = None) -> "Blocks":
        """The same, made if it is not there."""
        return cls(opened("blocks_create", path(directory)))

    def producer(self, name: str, *, size: int = 0, group: Optional[str] = None) -> "Producer":
        """A producer of the block `name`, which is there from the first content on. `size` bytes are reserved, and no
        more accepted; without it the block grows as needed. `group` is the group whose lock it shares."""
        size = word(size, "a size")
        return Producer(opened("producer_open", self._open, text(name), size, group and text(group)))

    def consumer(self, name: str) -> "Consumer":
        """A consumer of the block `name`."""
        return Consumer(opened("consumer_open", self._open, text(name)))

    def group(self, name: str) -> "Group":
        """The group `name`, which need not be made."""
        return Group(opened("group_open", self._open, text(name)))

    def remove(self, name: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Takes a block's name away. Consumers are told, producers begin another block."""
        encoded = text(name)
        patiently(timeout, lambda piece: call("blocks_remove", self._open, encoded, piece))

    def names(self) -> List[str]:
        """The name of every block, in order."""
        names: List[str] = []

        def each(name: bytes, _context: Any) -> None:
            names.append(name.decode())

        call("blocks_names", self._open, _abi.EACH_NAME(each), None)
        return names


class Producer(Handle):
    """Writes one block."""

    _close = "holdfast_producer_close"

    def publish(self, content: Content, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Makes this the block's content, and gives its version."""
        version = ctypes.c_uint64()
        at, length, _kept = pointer(content)
        self._patiently(timeout, "producer_publish", at, length, after=(ctypes.byref(version),))
        return version.value

    def hold(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Takes the block's lock and keeps it: no other producer writes, and none that follows pays for locks. Before the
        first content there is nothing to hold: whoever publishes first has the lock, and the others wait for it then."""
        self._patiently(timeout, "producer_hold")

    def release(self) -> None:
        """Gives the lock back."""
        with self._within(math.inf):
            call("producer_release", self._open)


class Consumer(Handle):
    """Reads one block."""

    _close = "holdfast_consumer_close"

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> bool:
        """Waits for something newer than what was read or pinned last; whether there is."""
        with contextlib.suppress(Busy):
            self._patiently(timeout, "consumer_wait")
            return True
        return False

    def read(self) -> bytes:
        """A copy of the newest content."""
        with self.pin() as pinned:
            return bytes(pinned.view)

    def pin(self) -> "Pinned":
        """The newest content as it lies in memory."""
        with self._within(math.inf):
            return Pinned(opened("consumer_pin", self._open))

    def follow(self, timeout: float = DEFAULT_TIMEOUT) -> Iterator[bytes]:
        """Each newer content as it comes, until none came for so long."""
        while self.wait(timeout):
            yield self.read()

    def lock(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Keeps every producer of the block, and of its group, waiting."""
        self._patiently(timeout, "consumer_lock")

    def unlock(self) -> None:
        """Lets them go on."""
        with self._within(math.inf):
            call("consumer_unlock", self._open)


class Pinned(Handle):
    """Content that no producer writes to as long as this is open: use `view` where it lies, within `with`."""

    _close = "holdfast_pinned_close"

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        length = _abi.library.holdfast_pinned_length(handle)
        array = (ctypes.c_ubyte * length).from_address(_abi.library.holdfast_pinned_data(handle))
        # Every view of the bytes, slices and others' arrays too, keeps this array: the last one lets go of the content.
        weakref.finalize(array, getattr(_abi.library, self._close), handle).atexit = False
        self._view: memoryview = memoryview(array).cast("B").toreadonly()

    @property
    def view(self) -> memoryview:
        """The bytes, not copied; numpy.frombuffer takes them as they are. This very view is not to be used once this is
        closed; slices and arrays that were made of it may be, and keep the content pinned."""
        view: Optional[memoryview] = self.__dict__.get("_view")
        if view is None:
            raise OutOfOrder("it is closed; pin the content again")
        return view

    @property
    def version(self) -> int:
        """Its version."""
        return int(_abi.library.holdfast_pinned_version(self._open))

    def close(self) -> None:
        """Lets producers write there again, once slices and arrays that were made of `view` are gone too. Whoever looks
        through `view` itself afterwards gets an exception, unless there is such an array."""
        self._handle = None
        view: Optional[memoryview] = self.__dict__.pop("_view", None)
        if view is not None:
            with contextlib.suppress(BufferError):
                view.release()

    def __del__(self) -> None:
        """Nothing is released: the view may have other users, and goes with the last one."""


class Group(Handle):
    """Several blocks under one lock."""

    _close = "holdfast_group_close"

    def hold_for_reading(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Keeps every producer of the group waiting: what is read from its blocks meanwhile was there together."""
        self._patiently(timeout, "group_hold_for_reading")

    def hold_for_writing(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Keeps every other producer of the group waiting, and every consumer that wants its lock."""
        self._patiently(timeout, "group_hold_for_writing")

    def publish(self, producer: Producer, content: Content, timeout: float = DEFAULT_TIMEOUT) -> int:
        """As Producer.publish, for a block of the group, which is held for writing."""
        version = ctypes.c_uint64()
        at, length, _kept = pointer(content)
        with self._within(timeout) as left, producer._within(left) as rest:
            those = (self._open, producer._open, at, length)
            patiently(rest, lambda piece: call("group_publish", *those, piece, ctypes.byref(version)))
        return version.value

    def release(self) -> None:
        """Gives the lock back."""
        with self._within(math.inf):
            call("group_release", self._open)

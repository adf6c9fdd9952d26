"""What is shared in the region: maps, counters, queues and blobs, as Python has things."""

import contextlib
import ctypes
import enum
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ItemsView,
    Iterator,
    List,
    Mapping,
    MutableMapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    ValuesView,
    overload,
)

from . import _abi
from ._abi import InFlight, Object, call, word
from ._content import Content, pointer, text
from ._errors import Busy, HoldfastError, InvalidArgument, NoSuchKey, OutOfOrder, UnknownName

if TYPE_CHECKING:
    from ._region import Session, Share

_T = TypeVar("_T")

#: More bytes than any blob has.
MOST_BYTES = 64 << 20

#: How long a queue is waited for where nothing is said.
DEFAULT_TIMEOUT = 10.0

#: That no default was given.
_NOTHING: Any = object()


class Kind(enum.IntEnum):
    """What a name in a folder stands for."""

    FOLDER = 1
    MAP = 2
    COUNTER = 3
    QUEUE = 4
    BLOB = 5


class _Named:
    """An object in a folder. It need not be closed, and ends with its share."""

    _kind = ""

    def __init__(self, share: "Share", folder: str, name: str, *more: int) -> None:
        self._share = share
        self._object = Object()
        call(f"{self._kind}_open", share._open, text(folder), text(name), *more, ctypes.byref(self._object))

    def _call(self, name: str, *arguments: Any) -> None:
        call(f"{self._kind}_{name}", self._share._open, self._object, *arguments)

    def _number(self, name: str, *arguments: Any) -> int:
        number = ctypes.c_uint64()
        self._call(name, *arguments, ctypes.byref(number))
        return number.value

    def _content(self, name: str, *arguments: Any) -> bytes:
        data, length = ctypes.c_void_p(), ctypes.c_size_t()
        self._call(name, *arguments, ctypes.byref(data), ctypes.byref(length))
        return ctypes.string_at(data, length.value) if length.value else b""


class _Items(ItemsView[bytes, bytes]):
    """Keys with their values, as they were together: looked up one by one, a key may be gone."""

    _mapping: "MapView"

    def __iter__(self) -> Iterator[Tuple[bytes, bytes]]:
        return iter(self._mapping.entries())

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        value = self._mapping.get(item[0])
        return value is not None and value == item[1]


class _Values(ValuesView[bytes]):
    """Values likewise."""

    _mapping: "MapView"

    def __iter__(self) -> Iterator[bytes]:
        return iter([value for _key, value in self._mapping.entries()])

    def __contains__(self, value: object) -> bool:
        return any(value == other for other in self)


class MapView(_Named, Mapping[bytes, bytes]):
    """Values under keys, both bytes, to read. Iteration is outside of a transaction, in no order, while others go on: a key
    that is there all the while is given once, another at most once. Should others remove keys meanwhile, make a dict of
    items(): dict() looks up one key after another, and may not find it any more (NoSuchKey). A map that was deleted is not an
    empty one: whatever is done with it is UnknownName."""

    _kind = "map"

    def __getitem__(self, key: bytes) -> bytes:
        at, length, _kept = pointer(key)
        return self._content("get", at, length)

    def __len__(self) -> int:
        return self._number("length")

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[bytes]:
        return iter([key for key, _value in self.entries()])

    @overload
    def get(self, key: bytes, /) -> Optional[bytes]: ...

    @overload
    def get(self, key: bytes, /, default: Union[bytes, _T]) -> Union[bytes, _T]: ...

    def get(self, key: bytes, /, default: Any = None) -> Any:
        """The value under a key, or `default`."""
        try:
            return self[key]
        except NoSuchKey:
            return default

    def items(self) -> ItemsView[bytes, bytes]:
        """Every key with its value, as entries() gives them."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """Every value, likewise."""
        return _Values(self)

    def entries(self) -> List[Tuple[bytes, bytes]]:
        """Every key with its value."""
        entries: List[Tuple[bytes, bytes]] = []

        def each(key: int, key_length: int, value: int, value_length: int, _context: Any) -> int:
            entries.append((ctypes.string_at(key, key_length), ctypes.string_at(value, value_length)))
            return 0

        self._call("each", _abi.EACH_ENTRY(each), None)
        return entries


class Map(MapView, MutableMapping[bytes, bytes]):
    """Values under keys, both bytes. Within a transaction the map is locked from its first use to the end, and what was
    changed is seen; otherwise each change is a transaction of its own, and reading locks nothing."""

    _share: "Session"

    def __setitem__(self, key: bytes, value: Content) -> None:
        at, length, _kept = pointer(key)
        value_at, value_length, _value_kept = pointer(value)
        self._call("put", at, length, value_at, value_length)

    def __delitem__(self, key: bytes) -> None:
        at, length, _kept = pointer(key)
        self._call("remove", at, length)

    @overload
    def pop(self, key: bytes, /) -> bytes: ...

    @overload
    def pop(self, key: bytes, /, default: Union[bytes, _T]) -> Union[bytes, _T]: ...

    def pop(self, key: bytes, /, default: Any = _NOTHING) -> Any:
        """Removes what is under a key, and gives it; `default`, if there is one, where there is nothing."""
        try:
            with self._share._together():
                value = self[key]
                del self[key]
                return value
        except NoSuchKey:
            if default is _NOTHING:
                raise
            return default

    def popitem(self) -> Tuple[bytes, bytes]:
        """Removes some entry, and gives it; NoSuchKey if there is none. Not within a transaction."""
        for key in self:
            # Others may have been faster.
            with contextlib.suppress(NoSuchKey):
                return key, self.pop(key)
        raise NoSuchKey("the map is empty; put something into it first")

    def setdefault(self, key: bytes, default: Content = b"", /) -> bytes:
        """The value under a key, which is `default` from now on if there is none."""
        with self._share._together():
            try:
                return self[key]
            except NoSuchKey:
                self[key] = default
                return bytes(default)

    def clear(self) -> None:
        """Removes what is in it, entry by entry. Not within a transaction."""
        for key in self:
            with contextlib.suppress(NoSuchKey):
                del self[key]


class CounterView(_Named):
    """A number, to read."""

    _kind = "counter"

    @property
    def value(self) -> int:
        """Its value."""
        return self._number("get")


class Counter(CounterView):
    """A number from 0 to 2⁶⁴ - 1."""

    def add(self, amount: int = 1) -> int:
        """Adds to it, also less than 0, and gives the sum, which wraps around."""
        size = word(abs(amount), "an amount")
        return self._number("add", size if amount >= 0 else 2**64 - size)

    def set(self, value: int) -> None:
        """Gives it another value."""
        self._call("set", word(value, "a value"))


class QueueView(_Named):
    """Items in order, to look at."""

    _kind = "queue"

    def __len__(self) -> int:
        return self._number("length")

    def __bool__(self) -> bool:
        return True


class Queue(QueueView):
    """Items in order, each of them bytes, put in and taken out at either end. Within a transaction nothing is waited for:
    see Session.transaction."""

    _share: "Session"

    def push(self, item: Content, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Puts an item behind the last one; Busy if there is no room for so long."""
        self._push("push_back", item, timeout)

    def push_front(self, item: Content, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Puts an item before the first one."""
        self._push("push_front", item, timeout)

    def pop(self, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """Takes the first item out; Busy if there is none for so long."""
        return self._pop("pop_front", timeout)

    def pop_back(self, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """Takes the last item out."""
        return self._pop("pop_back", timeout)

    def poll(self) -> Optional[bytes]:
        """The first item, taken out, or None if there is none now."""
        try:
            return self.pop(0)
        except Busy:
            return None

    def take(self, timeout: float = DEFAULT_TIMEOUT) -> "Item":
        """Takes the first item, to be worked on for longer than a transaction; Busy if there is none for so long. If this
        program is killed it is in the queue again, at its place."""
        return self._take("take_front", timeout)

    def take_back(self, timeout: float = DEFAULT_TIMEOUT) -> "Item":
        """Takes the last item, likewise."""
        return self._take("take_back", timeout)

    # What is waited for is a transaction's beginning: whoever is interrupted until its end has changed nothing, and a piece of
    # the wait that was in vain has neither.

    def _pop(self, name: str, timeout: float) -> bytes:
        with self._share._together(item_of=self, timeout=timeout):
            return self._content(name, 0)

    def _take(self, name: str, timeout: float) -> "Item":
        taken = InFlight()
        with self._share._together(item_of=self, timeout=timeout):
            content = self._content(name, 0, ctypes.byref(taken))
        return Item(self._share, taken, content)

    def _push(self, name: str, item: Content, timeout: float) -> None:
        at, length, _kept = pointer(item)
        with self._share._together(room_in=self, timeout=timeout):
            self._call(name, at, length, 0)


class Item:
    """An item that this session has taken from a queue: it is to be finished or put back. At the end of `with` it is finished,
    or put back by an exception, unless either was done already and not rolled back. A session that is closed puts back what it
    has; it has at most 12 (Full)."""

    def __init__(self, share: "Session", taken: InFlight, content: bytes) -> None:
        self._share, self._taken = share, taken
        #: Its bytes.
        self.content = content
        self._settled = False
        #: Whether an exception has put it back, or would have.
        self._left = False

    def finish(self) -> None:
        """What was to be done is done: the item is gone, with the transaction if one is open. UnknownName if this session
        does not have it any more."""
        self._settle("item_finish")

    def put_back(self) -> None:
        """Puts it back to the end of its queue that it was taken from, also where that is full by now. UnknownName if this
        session does not have it any more, or the queue was deleted: it can be finished then."""
        self._settle("item_put_back")

    def _settle(self, how: str) -> None:
        call(how, self._share._open, self._taken)
        self._settled = True
        if self._share._transacting:
            self._share._items.append(self)

    def __enter__(self) -> "Item":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if kind is not None:
            self._return()
        elif not self._settled:
            self.finish()

    def _return(self) -> None:
        """Puts it back after an exception, unless it is settled."""
        self._left = True
        if self._share._transacting:
            self._share._items.append(self)
        if not self._settled:
            # It went with the session's others, or what failed has rolled the transaction back already.
            with contextlib.suppress(UnknownName, OutOfOrder):
                self.put_back()

    def _undo(self) -> None:
        """What was done about it was rolled back: it is this session's as before, unless that took it too. What is in the
        way of its return is not what the caller is to hear of: then it goes back with the session."""
        if self._left:
            with contextlib.suppress(HoldfastError):
                self.put_back()


class BlobView(_Named):
    """Bytes, to read."""

    _kind = "blob"

    def __len__(self) -> int:
        return self._number("length")

    def __bool__(self) -> bool:
        return True

    def read(self, offset: int, length: int) -> bytes:
        """A copy of so many bytes from `offset` on, as they were at one moment; InvalidArgument if it does not reach so far."""
        offset, length = word(offset, "an offset"), word(length, "a length")
        if length > MOST_BYTES:
            raise InvalidArgument("the blob does not reach so far")
        buffer = ctypes.create_string_buffer(length)
        self._call("read", offset, buffer, length)
        return buffer.raw

    def get(self) -> bytes:
        """A copy of all of it, as it was at one moment."""
        return self._content("get")


class Blob(BlobView):
    """Bytes."""

    def set(self, content: Content) -> None:
        """Replaces all of it."""
        at, length, _kept = pointer(content)
        self._call("set", at, length)

    def write(self, offset: int, content: Content) -> None:
        """Replaces what is in it from `offset` on by as many bytes; InvalidArgument if it does not reach so far."""
        offset = word(offset, "an offset")
        at, length, _kept = pointer(content)
        self._call("write", offset, at, length)

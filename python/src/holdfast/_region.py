"""The region of a running instance: sessions, views and transactions."""

import contextlib
import os
from types import TracebackType
from typing import Any, ContextManager, Dict, List, Optional, Type, Union

from . import _abi
from ._abi import call, opened, patiently, word
from ._content import path, text
from ._errors import HoldfastError, WrongThread
from ._handle import Handle
from ._objects import (
    DEFAULT_TIMEOUT,
    Blob,
    BlobView,
    Counter,
    CounterView,
    Item,
    Kind,
    Map,
    MapView,
    Queue,
    QueueView,
)


class Share(Handle):
    """A share in the region, for the thread that attached: another thread attaches for itself, and so does a child that was
    forked (WrongThread otherwise). Closed by close(), at the end of `with`, or when nobody has it any more."""

    def close(self) -> None:
        """Rolls back what is open, and gives the slot back. It may be called again."""
        handle = getattr(self, "_handle", None)
        if handle is None:
            return
        try:
            call("session_close", handle)
        except WrongThread:
            # It stays open: the thread that attached may close it.
            raise
        except HoldfastError:
            self._handle = None
            raise
        self._handle = None

    def list(self, folder: Optional[str] = None) -> Dict[str, Kind]:
        """The names in a folder, in order, and what they stand for; without a folder those at the top. Not within a
        transaction."""
        names: Dict[str, Kind] = {}

        def each(name: bytes, kind: int, _context: Any) -> int:
            names[name.decode()] = Kind(kind)
            return 0

        inside = None if folder is None else text(folder)
        call("folder_each", self._open, inside, _abi.EACH_NAME_AND_KIND(each), None)
        return names

    def __del__(self) -> None:
        try:
            self.close()
        except HoldfastError:
            # By another thread: it is closed with its own.
            pass


class View(Share):
    """The region of the instance that owns a run directory, to read only: objects that are not there are UnknownName."""

    def __init__(self, run_dir: Union[str, "os.PathLike[str]", None] = None) -> None:
        super().__init__(opened("session_view", path(run_dir)))

    def map(self, folder: str, name: str) -> MapView:
        """The map of this name in the folder at this path."""
        return MapView(self, folder, name)

    def counter(self, folder: str, name: str) -> CounterView:
        """The counter of this name."""
        return CounterView(self, folder, name)

    def queue(self, folder: str, name: str) -> QueueView:
        """The queue of this name."""
        return QueueView(self, folder, name, 0)

    def blob(self, folder: str, name: str) -> BlobView:
        """The blob of this name."""
        return BlobView(self, folder, name)


class Session(Share):
    """A slot of one's own in the region of the instance that owns a run directory; without one it is the usual one.

    A process that is killed is repaired: what it had half done is undone, what it had locked is free."""

    #: Whether a transaction is open.
    _transacting = False

    def __init__(self, run_dir: Union[str, "os.PathLike[str]", None] = None) -> None:
        super().__init__(opened("session_attach", path(run_dir)))
        #: Items about which something was done in the transaction that is open.
        self._items: List[Item] = []

    def map(self, folder: str, name: str) -> Map:
        """The map of this name in the folder at this path (names with `/` between them); what is not there is made."""
        return Map(self, folder, name)

    def counter(self, folder: str, name: str) -> Counter:
        """The counter of this name, likewise."""
        return Counter(self, folder, name)

    def queue(self, folder: str, name: str, capacity: int = 0) -> Queue:
        """The queue of this name, likewise; one that is made takes at most `capacity` items, or any number with 0."""
        return Queue(self, folder, name, word(capacity, "a capacity"))

    def blob(self, folder: str, name: str) -> Blob:
        """The blob of this name, likewise."""
        return Blob(self, folder, name)

    def delete(self, folder: str, name: str) -> None:
        """Deletes the object of this name; UnknownName if there is none."""
        call("delete", self._open, text(folder), text(name))

    def rename(self, folder: str, name: str, to_folder: str, to_name: str) -> None:
        """Gives the object of this name another one, in the same folder or in another; what refers to it goes on. UnknownName
        if there is none, Exists if the other name is taken."""
        call("rename", self._open, text(folder), text(name), text(to_folder), text(to_name))

    def make_folder(self, folder: str) -> None:
        """Makes the folder at this path, and those that lead to it, where they are not there."""
        call("folder_make", self._open, text(folder))

    def delete_folder(self, folder: str) -> None:
        """Deletes the folder at this path; UnknownName if there is none, NotEmpty if it holds something."""
        call("folder_delete", self._open, text(folder))

    def rename_folder(self, folder: str, to: str) -> None:
        """Moves the folder at this path, with all that is in it, to another."""
        call("folder_rename", self._open, text(folder), text(to))

    def doing(self, what: str) -> None:
        """Says what this program is doing, for the status and for the report of a crash."""
        call("session_doing", self._open, text(what))

    def transaction(
        self,
        *,
        item_of: Optional[Queue] = None,
        room_in: Optional[Queue] = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> "Transaction":
        """A transaction, for `with`: committed at the end, or rolled back by an exception. With `item_of` it begins once that
        queue has an item, with `room_in` once that has room; Busy if that takes longer than `timeout`."""
        return Transaction(self, item_of, room_in, timeout)

    def _together(self, **waits: Any) -> ContextManager[Any]:
        """The transaction that is open, or else one of its own, which waits for an item or for room."""
        return contextlib.nullcontext() if self._transacting else self.transaction(**waits)


class Transaction:
    """Changes that are there wholly or not at all, whoever is killed. What is used in it is locked to its end: keep it short.
    While it is open, everything that is done through its session is part of it. An exception that came from the region has
    rolled it back already; NoSuchKey, Busy for a queue that is empty or full, and UnknownName for what is to be deleted have
    not."""

    def __init__(
        self, session: Session, item_of: Optional[Queue], room_in: Optional[Queue], timeout: float
    ) -> None:
        if item_of is not None and room_in is not None:
            raise ValueError("a transaction waits for an item or for room; give one of them")
        self._session = session
        self._item_of, self._room_in, self._timeout = item_of, room_in, timeout

    def __enter__(self) -> "Transaction":
        session = self._session
        if session._transacting:
            # That is told, and the one that is open stays.
            call("begin", session._open)
        try:
            self._begin(session._open)
            session._transacting = True
        except HoldfastError:
            raise
        except BaseException:
            self._undo()
            raise
        return self

    def _undo(self) -> None:
        """After an interruption nobody knows whether the transaction is open: it is not from here on."""
        self._session._transacting = False
        with contextlib.suppress(HoldfastError):
            call("rollback", self._session._open)

    def _begin(self, session: int) -> None:
        if self._item_of is not None:
            queue = self._item_of._object
            patiently(self._timeout, lambda piece: call("begin_with_item", session, queue, piece))
        elif self._room_in is not None:
            queue = self._room_in._object
            patiently(self._timeout, lambda piece: call("begin_with_room", session, queue, piece))
        else:
            call("begin", session)

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        session, committed = self._session, False
        try:
            call("commit" if kind is None else "rollback", session._open)
            committed = kind is None
        except HoldfastError:
            raise
        except BaseException:
            self._undo()
            raise
        finally:
            items, session._items, session._transacting = session._items, [], False
            if not committed:
                for item in items:
                    item._settled = False
                for item in items:
                    item._undo()

    def map(self, folder: str, name: str) -> Map:
        """As Session.map."""
        return self._session.map(folder, name)

    def counter(self, folder: str, name: str) -> Counter:
        """As Session.counter."""
        return self._session.counter(folder, name)

    def queue(self, folder: str, name: str, capacity: int = 0) -> Queue:
        """As Session.queue."""
        return self._session.queue(folder, name, capacity)

    def blob(self, folder: str, name: str) -> Blob:
        """As Session.blob."""
        return self._session.blob(folder, name)

    def delete(self, folder: str, name: str) -> None:
        """As Session.delete; what is not there does not roll the transaction back."""
        self._session.delete(folder, name)

    def rename(self, folder: str, name: str, to_folder: str, to_name: str) -> None:
        """As Session.rename."""
        self._session.rename(folder, name, to_folder, to_name)

    def make_folder(self, folder: str) -> None:
        """As Session.make_folder."""
        self._session.make_folder(folder)

    def delete_folder(self, folder: str) -> None:
        """As Session.delete_folder; as with delete."""
        self._session.delete_folder(folder)

    def rename_folder(self, folder: str, to: str) -> None:
        """As Session.rename_folder."""
        self._session.rename_folder(folder, to)

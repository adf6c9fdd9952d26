"""The C library: found, and each function with its types. See capi/include/holdfast.h."""

import ctypes
import math
import os
import pathlib
import time
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from typing import Any, Callable, Dict, Tuple

from ._errors import BY_CODE, Busy, HoldfastError, InvalidArgument

TIMED_OUT = 5

EACH_NAME = ctypes.CFUNCTYPE(None, c_char_p, c_void_p)

EACH_NAME_AND_KIND = ctypes.CFUNCTYPE(c_int, c_char_p, c_int, c_void_p)

EACH_ENTRY = ctypes.CFUNCTYPE(c_int, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p)


class Object(ctypes.Structure):
    """A map, counter, queue or blob."""

    _fields_ = [("object", c_uint64)]


class InFlight(ctypes.Structure):
    """An item that was taken from a queue."""

    _fields_ = [("serial", c_uint64)]


_HANDLE = POINTER(c_void_p)
_NUMBER = POINTER(c_uint64)
_OBJECT = POINTER(Object)
_CONTENT = (POINTER(c_void_p), POINTER(c_size_t))

# What each function that gives a code takes.
_CALLS: Dict[str, Tuple[Any, ...]] = {
    "blocks_open": (c_char_p, _HANDLE),
    "blocks_create": (c_char_p, _HANDLE),
    "blocks_names": (c_void_p, EACH_NAME, c_void_p),
    "blocks_remove": (c_void_p, c_char_p, c_uint64),
    "producer_open": (c_void_p, c_char_p, c_uint64, c_char_p, _HANDLE),
    "producer_publish": (c_void_p, c_void_p, c_size_t, c_uint64, _NUMBER),
    "producer_begin": (c_void_p, c_size_t, c_uint64, _HANDLE),
    "producer_commit": (c_void_p, c_uint64, _NUMBER),
    "producer_abandon": (c_void_p,),
    "producer_hold": (c_void_p, c_uint64),
    "producer_release": (c_void_p,),
    "consumer_open": (c_void_p, c_char_p, _HANDLE),
    "consumer_wait": (c_void_p, c_uint64),
    "consumer_pin": (c_void_p, _HANDLE),
    "consumer_lock": (c_void_p, c_uint64),
    "consumer_unlock": (c_void_p,),
    "group_open": (c_void_p, c_char_p, _HANDLE),
    "group_hold_for_reading": (c_void_p, c_uint64),
    "group_hold_for_writing": (c_void_p, c_uint64),
    "group_publish": (c_void_p, c_void_p, c_void_p, c_size_t, c_uint64, _NUMBER),
    "group_release": (c_void_p,),
    "blocks_close": (c_void_p,),
    "producer_close": (c_void_p,),
    "consumer_close": (c_void_p,),
    "pinned_close": (c_void_p,),
    "group_close": (c_void_p,),
    "session_attach": (c_char_p, _HANDLE),
    "session_view": (c_char_p, _HANDLE),
    "session_doing": (c_void_p, c_char_p),
    "session_close": (c_void_p,),
    "begin": (c_void_p,),
    "begin_with_item": (c_void_p, Object, c_uint64),
    "begin_with_room": (c_void_p, Object, c_uint64),
    "commit": (c_void_p,),
    "rollback": (c_void_p,),
    "delete": (c_void_p, c_char_p, c_char_p),
    "rename": (c_void_p, c_char_p, c_char_p, c_char_p, c_char_p),
    "folder_make": (c_void_p, c_char_p),
    "folder_each": (c_void_p, c_char_p, EACH_NAME_AND_KIND, c_void_p),
    "folder_delete": (c_void_p, c_char_p),
    "folder_rename": (c_void_p, c_char_p, c_char_p),
    "map_open": (c_void_p, c_char_p, c_char_p, _OBJECT),
    "map_get": (c_void_p, Object, c_void_p, c_size_t, *_CONTENT),
    "map_put": (c_void_p, Object, c_void_p, c_size_t, c_void_p, c_size_t),
    "map_remove": (c_void_p, Object, c_void_p, c_size_t),
    "map_length": (c_void_p, Object, _NUMBER),
    "map_each": (c_void_p, Object, EACH_ENTRY, c_void_p),
    "counter_open": (c_void_p, c_char_p, c_char_p, _OBJECT),
    "counter_get": (c_void_p, Object, _NUMBER),
    "counter_add": (c_void_p, Object, c_uint64, _NUMBER),
    "counter_set": (c_void_p, Object, c_uint64),
    "queue_open": (c_void_p, c_char_p, c_char_p, c_uint64, _OBJECT),
    "queue_length": (c_void_p, Object, _NUMBER),
    "queue_push_back": (c_void_p, Object, c_void_p, c_size_t, c_uint64),
    "queue_push_front": (c_void_p, Object, c_void_p, c_size_t, c_uint64),
    "queue_pop_front": (c_void_p, Object, c_uint64, *_CONTENT),
    "queue_pop_back": (c_void_p, Object, c_uint64, *_CONTENT),
    "queue_take_front": (c_void_p, Object, c_uint64, POINTER(InFlight), *_CONTENT),
    "queue_take_back": (c_void_p, Object, c_uint64, POINTER(InFlight), *_CONTENT),
    "item_finish": (c_void_p, InFlight),
    "item_put_back": (c_void_p, InFlight),
    "blob_open": (c_void_p, c_char_p, c_char_p, _OBJECT),
    "blob_get": (c_void_p, Object, *_CONTENT),
    "blob_set": (c_void_p, Object, c_void_p, c_size_t),
    "blob_length": (c_void_p, Object, _NUMBER),
    "blob_read": (c_void_p, Object, c_uint64, c_void_p, c_size_t),
    "blob_write": (c_void_p, Object, c_uint64, c_void_p, c_size_t),
}


def _load() -> ctypes.CDLL:
    named = os.environ.get("HOLDFAST_LIBRARY")
    beside = pathlib.Path(__file__).with_name("libholdfast.so")
    library = ctypes.CDLL(named or (str(beside) if beside.exists() else "libholdfast.so"))
    for name, arguments in _CALLS.items():
        function = getattr(library, f"holdfast_{name}")
        function.argtypes, function.restype = arguments, c_int
    library.holdfast_last_error.restype = c_char_p
    library.holdfast_version.restype = c_char_p
    library.holdfast_pinned_data.argtypes, library.holdfast_pinned_data.restype = (c_void_p,), c_void_p
    library.holdfast_pinned_length.argtypes, library.holdfast_pinned_length.restype = (c_void_p,), c_size_t
    library.holdfast_pinned_version.argtypes, library.holdfast_pinned_version.restype = (c_void_p,), c_uint64
    return library


library = _load()


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the C library. Raises what went wrong."""
    code = getattr(library, f"holdfast_{name}")(*arguments)
    if code:
        sentence = (library.holdfast_last_error() or b"").decode()
        raise BY_CODE.get(code, HoldfastError)(sentence)


def opened(name: str, *arguments: Any) -> int:
    """Calls a function that gives a handle, and gives that."""
    handle = c_void_p()
    call(name, *arguments, ctypes.byref(handle))
    return handle.value or 0


#: So long a call of the C library waits at most, in seconds: until it returns, Python sees to no signal.
PIECE = 0.1


def patiently(timeout: float, call: Callable[[int], None]) -> None:
    """Makes a call that waits for so many milliseconds, until it gets what it waits for or the time is over. A piece of the
    wait that was in vain has changed nothing."""
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            return call(max(0, math.ceil(min(left, PIECE) * 1000)))
        except Busy:
            if left <= PIECE:
                raise


def word(number: int, what: str) -> int:
    """A number as the C library takes it, which would lose the upper bits of a larger one without a word."""
    if not 0 <= number < 2**64:
        raise InvalidArgument(f"{what} of {number} is not from 0 to 2**64 - 1; give another")
    return number


def version() -> str:
    """The version of the C library."""
    return (library.holdfast_version() or b"").decode()

"""The C library: found, and each function with its types. See capi/include/holdfast.h."""

import ctypes
import os
import pathlib
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

from ._errors import BY_CODE, HoldfastError

TIMED_OUT = 5

EACH_NAME = ctypes.CFUNCTYPE(None, c_char_p, c_void_p)

_HANDLE = POINTER(c_void_p)

# What each function that gives a code takes.
_CALLS = {
    "blocks_open": (c_char_p, _HANDLE),
    "blocks_create": (c_char_p, _HANDLE),
    "blocks_names": (c_void_p, EACH_NAME, c_void_p),
    "blocks_remove": (c_void_p, c_char_p, c_uint64),
    "producer_open": (c_void_p, c_char_p, c_uint64, c_char_p, _HANDLE),
    "producer_publish": (c_void_p, c_void_p, c_size_t, c_uint64, POINTER(c_uint64)),
    "producer_begin": (c_void_p, c_size_t, c_uint64, _HANDLE),
    "producer_commit": (c_void_p, c_uint64, POINTER(c_uint64)),
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
    "group_publish": (c_void_p, c_void_p, c_void_p, c_size_t, c_uint64, POINTER(c_uint64)),
    "group_release": (c_void_p,),
}

_CLOSES = ("blocks_close", "producer_close", "consumer_close", "pinned_close", "group_close")


def _load() -> ctypes.CDLL:
    named = os.environ.get("HOLDFAST_LIBRARY")
    beside = pathlib.Path(__file__).with_name("libholdfast.so")
    library = ctypes.CDLL(named or (str(beside) if beside.exists() else "libholdfast.so"))
    for name, arguments in _CALLS.items():
        function = getattr(library, f"holdfast_{name}")
        function.argtypes, function.restype = arguments, c_int
    for name in _CLOSES:
        function = getattr(library, f"holdfast_{name}")
        function.argtypes, function.restype = (c_void_p,), None
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


def milliseconds(seconds: float) -> int:
    """A time as the C library takes it."""
    return max(0, min(int(seconds * 1000), 2**63))


def version() -> str:
    """The version of the C library."""
    return (library.holdfast_version() or b"").decode()

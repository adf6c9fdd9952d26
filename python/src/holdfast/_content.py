"""Bytes and paths, as the C library takes them."""

import ctypes
import os
from typing import Any, Optional, Tuple, Union

from ._errors import InvalidArgument

Content = Union[bytes, bytearray, memoryview]


def text(text: str) -> bytes:
    """A text for C, which has no zeros."""
    if "\0" in text:
        raise InvalidArgument(f"{text!r} has a zero in it; give a text without one")
    return text.encode()


def path(path: Union[str, "os.PathLike[str]", None]) -> Optional[bytes]:
    """A path, or none."""
    if path is None:
        return None
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise InvalidArgument(f"{path!r} has a zero in it; give a path without one")
    return encoded


def pointer(content: Content) -> Tuple[Any, int, Any]:
    """Where the bytes are, how many, and what keeps them there meanwhile. What is read-only and no `bytes` is copied, and what
    does not lie there as plain bytes, row after row."""
    if isinstance(content, bytes):
        return ctypes.c_char_p(content), len(content), content
    view = memoryview(content)
    try:
        plain = None if view.readonly else view.cast("B")
    except TypeError:
        plain = None
    if plain is None:
        return pointer(view.tobytes())
    array = (ctypes.c_ubyte * len(plain)).from_buffer(plain)
    return ctypes.cast(array, ctypes.c_void_p), len(plain), array

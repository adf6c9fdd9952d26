"""What can go wrong: an exception for each code of the C library."""

from typing import Dict, Type


class HoldfastError(Exception):
    """What went wrong, in one sentence."""


class SystemFailure(HoldfastError, OSError):
    """The system refused something, such as memory."""


class InvalidArgument(HoldfastError, ValueError):
    """An argument cannot be used, such as a name."""


class UnknownName(HoldfastError, KeyError):
    """There is nothing of this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Removed(HoldfastError):
    """It was removed while it was used."""


class Busy(HoldfastError, TimeoutError):
    """The time was over."""


class TooLarge(HoldfastError, ValueError):
    """More bytes than fit."""


class Refused(HoldfastError):
    """The file is not to be used: damaged, somebody else's, or of another version."""


class OutOfOrder(HoldfastError):
    """Another call comes first."""


class Full(HoldfastError):
    """The region, its object table, or what one transaction may hold, is full."""


class Exists(HoldfastError):
    """There is an object of that name, of another kind."""


class WrongThread(HoldfastError):
    """The session is another thread's, or that of the process that this one was forked from."""


class Away(HoldfastError, ConnectionError):
    """No instance is there, it lets this user not in, or it has ended the session: attach again."""


class NoSuchKey(HoldfastError, KeyError):
    """The map has no such key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Locked(HoldfastError, TimeoutError):
    """Another held an object's lock for too long."""


class NotEmpty(HoldfastError, OSError):
    """The folder holds something."""


BY_CODE: Dict[int, Type[HoldfastError]] = {
    1: SystemFailure,
    2: InvalidArgument,
    3: UnknownName,
    4: Removed,
    5: Busy,
    6: TooLarge,
    7: Refused,
    8: OutOfOrder,
    9: Full,
    10: Exists,
    11: WrongThread,
    12: Away,
    13: NoSuchKey,
    14: Locked,
    15: NotEmpty,
}

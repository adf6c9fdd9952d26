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


BY_CODE: Dict[int, Type[HoldfastError]] = {
    1: SystemFailure,
    2: InvalidArgument,
    3: UnknownName,
    4: Removed,
    5: Busy,
    6: TooLarge,
    7: Refused,
    8: OutOfOrder,
}

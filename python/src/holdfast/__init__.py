"""Blocks of memory with a name that any processes of a user share, without a daemon.

    import holdfast

    blocks = holdfast.Blocks.create("/dev/shm/example")
    with blocks.producer("weather") as producer:
        producer.publish(b"sunny")
    with blocks.consumer("weather") as consumer:
        print(consumer.read())

Whoever reads gets one content, whole, and never an older one than before, whoever is killed at whatever moment.
Times are in seconds. Every wait is bounded, and lets other threads run.
"""

from ._abi import version
from ._blocks import Blocks, Consumer, Group, Pinned, Producer
from ._errors import (
    Busy,
    HoldfastError,
    InvalidArgument,
    OutOfOrder,
    Refused,
    Removed,
    SystemFailure,
    TooLarge,
    UnknownName,
)

__all__ = [
    "Blocks",
    "Busy",
    "Consumer",
    "Group",
    "HoldfastError",
    "InvalidArgument",
    "OutOfOrder",
    "Pinned",
    "Producer",
    "Refused",
    "Removed",
    "SystemFailure",
    "TooLarge",
    "UnknownName",
    "version",
]

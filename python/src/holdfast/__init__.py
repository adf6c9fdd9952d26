"""Memory that processes share and that survives the death of any of them.

Blocks have a name, and any processes of a user share them, without a daemon:

    import holdfast

    blocks = holdfast.Blocks.create("/dev/shm/example")
    with blocks.producer("weather") as producer:
        producer.publish(b"sunny")
    with blocks.consumer("weather") as consumer:
        print(consumer.read())

Whoever reads gets one content, whole, and never an older one than before, whoever is killed at whatever moment.

The region of a running instance has maps, counters, queues and blobs, changed in transactions:

    with holdfast.Session("/run/holdfast") as session:
        with session.transaction() as txn:
            txn.map("shop", "stock")[b"apples"] = b"6"
            txn.counter("shop", "sold").add(1)
        job = session.queue("mill", "jobs").pop(timeout=60)

        with session.queue("mill", "jobs").take(timeout=60) as job:
            work_for_long_on(job.content)

Whoever is killed within a transaction has changed nothing, and what it had locked is free; an item that it had taken is in its
queue again. A View only reads.

Times are in seconds. Every wait is bounded, unless it is for math.inf, lets other threads run, and ends soon after Ctrl-C.
Threads may share whatever belongs to blocks, and take turns then; sessions and views are each thread's own (WrongThread
otherwise). A child that was forked may use its parent's blocks, and has locks of its own then; to the region it attaches for
itself.
"""

from ._abi import version
from ._blocks import Blocks, Consumer, Group, Pinned, Producer
from ._errors import (
    Away,
    Busy,
    Exists,
    Full,
    HoldfastError,
    InvalidArgument,
    Locked,
    NoSuchKey,
    NotEmpty,
    OutOfOrder,
    Refused,
    Removed,
    SystemFailure,
    TooLarge,
    UnknownName,
    WrongThread,
)
from ._objects import Blob, BlobView, Counter, CounterView, Item, Kind, Map, MapView, Queue, QueueView
from ._region import Session, Transaction, View

__all__ = [
    "Away",
    "Blob",
    "BlobView",
    "Blocks",
    "Busy",
    "Consumer",
    "Counter",
    "CounterView",
    "Exists",
    "Full",
    "Group",
    "HoldfastError",
    "InvalidArgument",
    "Item",
    "Kind",
    "Locked",
    "Map",
    "MapView",
    "NoSuchKey",
    "NotEmpty",
    "OutOfOrder",
    "Pinned",
    "Producer",
    "Queue",
    "QueueView",
    "Refused",
    "Removed",
    "Session",
    "SystemFailure",
    "TooLarge",
    "Transaction",
    "UnknownName",
    "View",
    "WrongThread",
    "version",
]

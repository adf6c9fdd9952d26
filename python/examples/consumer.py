"""Prints every content of a block, as it comes: consumer.py NAME [DIRECTORY] [SECONDS]

Ends when the block is removed, or nothing came for so many seconds.
"""

import sys

import holdfast


def main(name: str, directory: "str | None" = None, seconds: float = 10) -> None:
    with holdfast.Blocks.open(directory) as blocks, blocks.consumer(name) as consumer:
        while consumer.wait(seconds):
            with consumer.pin() as pinned:
                print(f"version {pinned.version}: {bytes(pinned.view).decode()}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None, float(sys.argv[3]) if len(sys.argv) > 3 else 10)
    except holdfast.Removed:
        pass
    except holdfast.HoldfastError as error:
        sys.exit(f"consumer.py: {error}")

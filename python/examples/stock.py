"""Shares a map of a running instance: stock.py RUN_DIR ITEM [COUNT]

Prints how many there are, or how many there are now that COUNT more have come, as capi/examples/stock.c does.
"""

import sys

import holdfast


def main(run_dir: str, item: str, count: int = 0) -> None:
    with holdfast.Session(run_dir) as session:
        with session.transaction() as txn:
            stock = txn.map("shop", "stock")
            number = int(stock.get(item.encode(), b"0")) + count
            if count:
                stock[item.encode()] = str(number).encode()
    print(number, item)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], *(int(count) for count in sys.argv[3:4]))
    except holdfast.HoldfastError as error:
        sys.exit(f"stock.py: {error}")

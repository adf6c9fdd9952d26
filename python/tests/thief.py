"""Takes everything out of a map and stays in the middle of it, to be killed there: thief.py RUN_DIR"""

import sys

import holdfast

with holdfast.Session(sys.argv[1]) as session, session.transaction() as txn:
    stock = txn.map("shop", "stock")
    stock[b"apples"] = b"0"
    stock[b"pears"] = b"1" * 1000
    txn.counter("shop", "stolen").add(7)
    print("in the middle", flush=True)
    sys.stdin.read()

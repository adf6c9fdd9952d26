"""Looks at the apples through a view for each line that it reads, and says how many there are or what is wrong: viewer.py RUN_DIR"""

import pathlib
import sys

import holdfast

# Whom an instance that is stopped may leave there.
pathlib.Path("/proc/self/comm").write_text("visitor")

with holdfast.View(sys.argv[1]) as view:
    stock = view.map("shop", "stock")
    for _ in sys.stdin:
        try:
            print(stock[b"apples"].decode(), flush=True)
        except holdfast.HoldfastError as problem:
            print(type(problem).__name__, flush=True)

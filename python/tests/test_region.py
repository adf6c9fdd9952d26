"""The package against a running instance, whose run directory HOLDFAST_TEST_RUN_DIR names."""

import math
import os
import threading
import time
import unittest
import uuid
from typing import Any
from unittest import mock

import interrupts

import holdfast
from holdfast import _abi, _region

RUN_DIR = os.environ.get("HOLDFAST_TEST_RUN_DIR", "")


@unittest.skipUnless(RUN_DIR, "HOLDFAST_TEST_RUN_DIR names no instance")
class RegionTest(unittest.TestCase):
    def setUp(self) -> None:
        self.session = holdfast.Session(RUN_DIR)
        self.addCleanup(self.session.close)
        self.folder = f"python/{uuid.uuid4()}"

    def test_a_map_is_a_mapping(self) -> None:
        stock = self.session.map(self.folder, "stock")
        stock.update({b"apples": b"6", b"pears": b"", b"\0": bytearray(b"x")})
        self.assertEqual(dict(stock), {b"apples": b"6", b"pears": b"", b"\0": b"x"})
        self.assertEqual((len(stock), b"plums" in stock, stock.get(b"plums")), (3, False, None))
        del stock[b"\0"]
        with self.assertRaises(KeyError):
            del stock[b"\0"]
        self.assertEqual(sorted(stock.entries()), [(b"apples", b"6"), (b"pears", b"")])
        self.assertEqual((stock.pop(b"apples"), stock.pop(b"apples", None), stock.pop(b"apples", b"0")), (b"6", None, b"0"))
        with self.assertRaises(KeyError):
            stock.pop(b"apples")
        self.assertEqual((stock.setdefault(b"plums", b"2"), stock.setdefault(b"plums", b"3")), (b"2", b"2"))
        with self.session.transaction():
            self.assertEqual((stock.pop(b"plums"), stock.setdefault(b"plums", b"4"), b"plums" in stock), (b"2", b"4", True))
        self.assertEqual(sorted([stock.popitem(), stock.popitem()]), [(b"pears", b""), (b"plums", b"4")])
        with self.assertRaises(KeyError):
            stock.popitem()
        stock.update({b"a": b"1", b"b": b"2"})
        stock.clear()
        self.assertEqual((len(stock), list(stock.keys())), (0, []))

    def test_what_others_remove_meanwhile_is_no_failure(self) -> None:
        stock = self.session.map(self.folder, "stock")
        entries = {bytes([key]): b"x" for key in range(5)}
        for view in (stock.items, stock.values):
            stock.update(entries)
            seen = 0
            for _ in view():
                seen += 1
                stock.clear()
            self.assertEqual((seen, len(stock)), (5, 0))
        stock.update(entries)
        self.assertEqual((dict(stock.items()), set(stock.values())), (entries, {b"x"}))
        self.assertTrue((b"\1", b"x") in stock.items() and b"x" in stock.values())
        self.assertFalse((b"\1", b"y") in stock.items() or (b"y", None) in stock.items() or b"y" in stock.values())

    def test_a_deleted_map_is_no_empty_one(self) -> None:
        stock = self.session.map(self.folder, "stock")
        self.session.delete(self.folder, "stock")
        deeds = (
            lambda: stock[b"a"],
            lambda: stock.get(b"a"),
            lambda: b"a" in stock,
            lambda: stock.pop(b"a", None),
            lambda: stock.setdefault(b"a", b""),
            lambda: (b"a", b"") in stock.items(),
            lambda: list(stock.items()),
            stock.popitem,
            stock.clear,
        )
        for deed in deeds:
            with self.assertRaises(holdfast.UnknownName):
                deed()

    def test_a_transaction_is_wholly_there_or_not(self) -> None:
        with self.session.transaction() as txn:
            stock, sold = txn.map(self.folder, "stock"), txn.counter(self.folder, "sold")
            stock[b"apples"] = b"6"
            self.assertEqual(sold.add(2), 2)
        with self.assertRaises(ZeroDivisionError), self.session.transaction():
            stock[b"apples"] = b"5"
            self.assertEqual((sold.add(-3), stock[b"apples"]), (2**64 - 1, b"5"))
            raise ZeroDivisionError
        self.assertEqual((stock[b"apples"], sold.value), (b"6", 2))
        with self.assertRaises(holdfast.OutOfOrder), self.session.transaction(), self.session.transaction():
            pass

    def test_queues_wait_at_both_ends(self) -> None:
        jobs = self.session.queue(self.folder, "jobs", capacity=2)
        with self.assertRaises(TimeoutError):
            jobs.pop(timeout=0.01)
        self.assertIsNone(jobs.poll())
        jobs.push(b"b")
        jobs.push_front(b"a")
        with self.assertRaises(holdfast.Busy):
            jobs.push(b"c", timeout=0.01)
        with self.assertRaises(ZeroDivisionError), self.session.transaction(item_of=jobs):
            self.assertEqual(jobs.pop(), b"a")
            raise ZeroDivisionError
        self.assertEqual((len(jobs), jobs.pop_back(), jobs.pop()), (2, b"b", b"a"))

        def produce() -> None:
            with holdfast.Session(RUN_DIR) as session:
                session.queue(self.folder, "jobs").push(b"late")

        thread = threading.Thread(target=produce)
        thread.start()
        self.assertEqual(jobs.pop(timeout=30), b"late")
        thread.join()

    def test_an_item_is_worked_on_and_finished_or_put_back(self) -> None:
        jobs = self.session.queue(self.folder, "jobs")
        for job in (b"a", b"b", b"c"):
            jobs.push(job)
        with jobs.take() as item, jobs.take_back() as last:
            self.assertEqual((item.content, last.content, len(jobs)), (b"a", b"c", 1))
            last.put_back()
            with self.assertRaises(holdfast.UnknownName):
                last.finish()
        with self.assertRaises(ZeroDivisionError), jobs.take() as item:
            raise ZeroDivisionError
        self.assertEqual((item.content, len(jobs), jobs.pop(), jobs.pop()), (b"b", 2, b"b", b"c"))
        with self.assertRaises(holdfast.Busy):
            jobs.take(timeout=0.01)
        with holdfast.Session(RUN_DIR) as other:
            jobs.push(b"late")
            self.assertEqual(other.queue(self.folder, "jobs").take().content, b"late")
            self.assertEqual(len(jobs), 0)
        self.assertEqual(jobs.take(timeout=30).content, b"late")
        with self.session.transaction():
            item = jobs.take_back(0) if len(jobs) else None
        self.assertIsNone(item)

    def test_an_item_that_was_finished_in_vain_is_put_back(self) -> None:
        jobs = self.session.queue(self.folder, "jobs")
        jobs.push(b"a")
        with self.assertRaises(ZeroDivisionError), jobs.take() as item, self.session.transaction():
            item.finish()
            raise ZeroDivisionError
        self.assertEqual(len(jobs), 1)
        with self.assertRaises(ZeroDivisionError), self.session.transaction(), jobs.take() as item:
            item.finish()
            raise ZeroDivisionError
        self.assertEqual(len(jobs), 1)
        for settle in (holdfast.Item.finish, lambda item: None):
            item = jobs.take()
            with self.assertRaises(ZeroDivisionError), self.session.transaction(), item:
                settle(item)
                raise ZeroDivisionError
            self.assertEqual(len(jobs), 1)
        item = jobs.take()
        with self.assertRaises(holdfast.Exists), self.session.transaction(), item:
            self.session.counter(self.folder, "jobs")
        self.assertEqual(len(jobs), 1)
        # Finished and not rolled back, it is gone whatever happens then.
        with self.assertRaises(ZeroDivisionError), jobs.take() as item:
            item.finish()
            raise ZeroDivisionError
        self.assertEqual(len(jobs), 0)
        # At the end of its own `with` it is finished again.
        jobs.push(b"b")
        with jobs.take() as item:
            with self.assertRaises(ZeroDivisionError), self.session.transaction():
                item.finish()
                raise ZeroDivisionError
        with self.assertRaises(holdfast.UnknownName):
            item.put_back()

    def test_who_is_interrupted_has_changed_nothing(self) -> None:
        jobs = self.session.queue(self.folder, "jobs", capacity=2)
        jobs.push(b"a")
        real, interrupts = _abi.call, ["begin_with_item", "begin_with_room", "begin", "commit"]

        def interrupted(name: str, *arguments: Any) -> None:
            if name == "commit":
                raise KeyboardInterrupt
            real(name, *arguments)
            if name in interrupts:
                raise KeyboardInterrupt

        deeds = (jobs.pop, jobs.pop_back, jobs.take, lambda: jobs.push(b"b"), self.session.transaction().__enter__)
        for _ in range(2):
            for deed in deeds:
                with mock.patch.object(_region, "call", interrupted), self.assertRaises(KeyboardInterrupt):
                    deed()
                self.assertEqual(len(jobs), 1)
                with self.session.transaction():
                    pass
            # The next time only the end is.
            interrupts.clear()
            deeds = deeds[:-1]
        # The outer one is not the one that was interrupted.
        with self.session.transaction():
            with mock.patch.object(_region, "call", interrupted), self.assertRaises(holdfast.OutOfOrder):
                self.session.transaction().__enter__()
            jobs.push(b"b")
        self.assertEqual((jobs.pop(), jobs.pop()), (b"a", b"b"))

    def test_a_wait_is_interrupted_and_may_be_unlimited(self) -> None:
        full = self.session.queue(self.folder, "full", capacity=1)
        full.push(b"job", timeout=math.inf)
        empty = self.session.queue(self.folder, "empty")
        deeds = {
            "begin_with_item": lambda: self.session.transaction(item_of=empty, timeout=20).__enter__(),
            "begin_with_room": lambda: full.push(b"more", timeout=20),
        }
        for name, deed in deeds.items():
            began = time.monotonic()
            with self.assertRaises(KeyboardInterrupt), interrupts.within(name):
                deed()
            self.assertLess(time.monotonic() - began, 10, name)
        self.assertEqual((full.pop(timeout=math.inf), full.poll()), (b"job", None))

    def test_numbers_that_do_not_fit_are_refused(self) -> None:
        sold, label = self.session.counter(self.folder, "sold"), self.session.blob(self.folder, "label")
        label.set(b"fresh")
        sold.set(2**64 - 1)
        self.assertEqual((sold.add(1), sold.add(-(2**64) + 1), sold.add(0)), (0, 1, 1))
        deeds = (
            lambda: sold.add(2**64),
            lambda: sold.add(-(2**64)),
            lambda: sold.set(2**64),
            lambda: sold.set(-1),
            lambda: label.read(2**64, 1),
            lambda: label.write(2**64, b"X"),
            lambda: self.session.queue(self.folder, "jobs", capacity=2**64 + 1),
        )
        for deed in deeds:
            with self.assertRaises(ValueError):
                deed()
        self.assertEqual((sold.value, label.get()), (1, b"fresh"))

    def test_blobs_have_ranges(self) -> None:
        label = self.session.blob(self.folder, "label")
        label.set(b"fresh today")
        label.write(6, bytearray(b"TO"))
        self.assertEqual((len(label), label.read(6, 5), label.read(11, 0)), (11, b"TOday", b""))
        for offset, length in ((7, 5), (-1, 1), (0, -1), (2**64 - 1, 2), (0, 2**40)):
            with self.assertRaises(holdfast.InvalidArgument):
                label.read(offset, length)
        with self.assertRaises(holdfast.InvalidArgument):
            label.write(10, b"xx")
        with self.session.transaction():
            label.write(0, b"F")
            self.assertEqual(label.read(0, 5), b"Fresh")

    def test_folders_are_listed_and_names_change(self) -> None:
        inner = f"{self.folder}/in"
        stock = self.session.map(inner, "stock")
        stock[b"apples"] = b"6"
        self.session.queue(inner, "jobs")
        kinds = {"jobs": holdfast.Kind.QUEUE, "stock": holdfast.Kind.MAP}
        self.assertEqual(list(self.session.list(inner).items()), list(kinds.items()))
        self.assertEqual(self.session.list()["python"], holdfast.Kind.FOLDER)
        with self.assertRaises(holdfast.NotEmpty):
            self.session.delete_folder(inner)
        with self.assertRaises(holdfast.Exists):
            self.session.rename(inner, "stock", inner, "jobs")
        with self.session.transaction() as txn:
            txn.rename(inner, "stock", self.folder, "moved")
            txn.delete(inner, "jobs")
            with self.assertRaises(holdfast.UnknownName):
                txn.delete(inner, "nothing")
            txn.delete_folder(inner)
            txn.make_folder(f"{self.folder}/other")
        self.session.rename_folder(f"{self.folder}/other", f"{self.folder}/last")
        with holdfast.View(RUN_DIR) as view:
            self.assertEqual(view.list(self.folder), {"last": holdfast.Kind.FOLDER, "moved": holdfast.Kind.MAP})
            with self.assertRaises(holdfast.UnknownName):
                view.list(inner)
        self.assertEqual(stock[b"apples"], b"6")

    def test_a_view_only_reads(self) -> None:
        self.session.map(self.folder, "stock")[b"apples"] = b"6"
        self.session.blob(self.folder, "label").set(b"fresh")
        self.session.counter(self.folder, "sold").set(7)
        self.session.queue(self.folder, "jobs").push(b"a")
        with holdfast.View(RUN_DIR) as view:
            self.assertEqual(dict(view.map(self.folder, "stock")), {b"apples": b"6"})
            self.assertEqual(view.blob(self.folder, "label").get(), b"fresh")
            self.assertEqual((view.counter(self.folder, "sold").value, len(view.queue(self.folder, "jobs"))), (7, 1))
            with self.assertRaises(holdfast.UnknownName):
                view.map(self.folder, "nothing")
            self.assertFalse(hasattr(view, "transaction"))

    def test_what_goes_wrong_has_a_type_and_a_sentence(self) -> None:
        with self.assertRaisesRegex(holdfast.Away, "no instance"):
            holdfast.Session(RUN_DIR + "/nowhere")
        with self.assertRaises(holdfast.InvalidArgument):
            self.session.map(self.folder, "a\0b")
        self.session.map(self.folder, "stock")
        with self.assertRaises(holdfast.Exists):
            self.session.counter(self.folder, "stock")
        with self.assertRaises(holdfast.TooLarge):
            self.session.map(self.folder, "stock")[b"k" * 100_000] = b""
        session = holdfast.Session(RUN_DIR)
        session.close()
        session.close()
        with self.assertRaises(holdfast.OutOfOrder):
            session.map(self.folder, "stock")

    def test_a_session_is_its_threads(self) -> None:
        stock = self.session.map(self.folder, "stock")
        problems = []

        def other() -> None:
            for deed in (lambda: stock.update({b"apples": b"5"}), self.session.close):
                try:
                    deed()
                except holdfast.WrongThread as problem:
                    problems.append(problem)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        self.assertEqual(len(problems), 2)
        stock[b"apples"] = b"6"
        child = os.fork()
        if child == 0:
            try:
                self.session.transaction().__enter__()
            except holdfast.WrongThread:
                os._exit(0)
            os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)


if __name__ == "__main__":
    unittest.main()

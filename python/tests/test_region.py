"""The package against a running instance, whose run directory HOLDFAST_TEST_RUN_DIR names."""

import os
import threading
import unittest
import uuid

import holdfast

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
        self.session.delete(self.folder, "stock")
        with self.assertRaises(holdfast.UnknownName):
            stock[b"apples"]

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

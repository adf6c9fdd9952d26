"""The package against the real library. HOLDFAST_LIBRARY names it where it is not installed."""

import array
import contextlib
import ctypes
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from typing import Any
from unittest import mock

import interrupts

import holdfast
from holdfast import _abi, _handle


class BlocksTest(unittest.TestCase):
    def setUp(self) -> None:
        above = tempfile.TemporaryDirectory(dir=os.environ.get("HOLDFAST_TEST_DIR"))
        self.addCleanup(above.cleanup)
        self.path = pathlib.Path(above.name) / "blocks"
        self.blocks = holdfast.Blocks.create(self.path)
        self.addCleanup(self.blocks.close)

    def test_contents_come_back(self) -> None:
        with self.blocks.producer("b") as producer:
            for turn, content in enumerate([b"x", bytearray(b"yy"), memoryview(b"zzz"), os.urandom(300_000)]):
                self.assertEqual(producer.publish(content), turn + 1)
                with self.blocks.consumer("b") as consumer:
                    self.assertTrue(consumer.wait(0))
                    self.assertEqual(consumer.read(), bytes(content))
                    self.assertFalse(consumer.wait(0))
        self.assertEqual(self.blocks.names(), ["b"])

    def test_whatever_has_bytes_is_content(self) -> None:
        class Point(ctypes.BigEndianStructure):
            _fields_ = [("x", ctypes.c_int16), ("y", ctypes.c_int16)]

        points = (Point * 2)(Point(1, 2), Point(3, 4))
        every_other = memoryview(bytearray(b"a-b-c-"))[::2]
        rows = memoryview(bytearray(b"abcdef")).cast("B", (2, 3))
        doubles = array.array("d", [1.5, 2.5])
        with self.blocks.producer("b") as producer:
            for content in (points, every_other, rows, doubles, (ctypes.c_double * 2)(1.5, 2.5)):
                producer.publish(content, timeout=math.inf)
                with self.blocks.consumer("b") as consumer:
                    self.assertEqual(consumer.read(), memoryview(content).tobytes())
            with self.assertRaises(holdfast.InvalidArgument):
                producer.publish(bytearray())

    def test_a_wait_is_interrupted(self) -> None:
        group, producer = self.blocks.group("g"), self.blocks.producer("b", group="g")
        producer.publish(b"1")
        consumer = self.blocks.consumer("b")
        consumer.read()
        holder = self.blocks.producer("b")
        holder.hold()
        deeds = {
            "consumer_wait": consumer.wait,
            "consumer_lock": consumer.lock,
            "producer_hold": producer.hold,
            "producer_publish": lambda timeout: producer.publish(b"2", timeout),
            "group_hold_for_reading": group.hold_for_reading,
            "group_hold_for_writing": group.hold_for_writing,
        }
        for name, deed in deeds.items():
            began = time.monotonic()
            with self.assertRaises(KeyboardInterrupt), interrupts.within(name):
                deed(timeout=20)
            self.assertLess(time.monotonic() - began, 10, name)
        for opened in (holder, producer, consumer, group):
            opened.close()

    def test_numbers_that_do_not_fit_are_refused(self) -> None:
        for size in (-1, 2**64, 2**64 + 1):
            with self.assertRaises(ValueError):
                self.blocks.producer("b", size=size)

    def test_pinned_content_stays(self) -> None:
        with self.blocks.producer("b") as producer:
            producer.publish(b"1" * 100_000)
            with self.blocks.consumer("b") as consumer, consumer.pin() as pinned:
                for turn in range(5):
                    producer.publish(b"2" * 100_000)
                self.assertEqual((len(pinned.view), pinned.version), (100_000, 1))
                self.assertEqual(bytes(pinned.view), b"1" * 100_000)
                self.assertTrue(pinned.view.readonly)
                self.assertEqual(consumer.read(), b"2" * 100_000)
            view = None
            with self.assertRaises(holdfast.OutOfOrder):
                view = pinned.view
            self.assertIsNone(view)

    def test_what_was_made_of_a_view_keeps_the_content_until_it_is_gone(self) -> None:
        def fill(producer: holdfast.Producer) -> int:
            return [producer.publish(b"2" * 100_000, timeout=0.01) for _ in range(8)][-1]

        with self.blocks.producer("b") as producer:
            producer.publish(b"1" * 100_000)
            consumer = self.blocks.consumer("b")
            self.addCleanup(consumer.close)
            with consumer.pin() as pinned:
                kept = [pinned.view[:10], memoryview(pinned.view)[50_000:50_010]]
                view = pinned.view
            with self.assertRaises(ValueError):
                bytes(view)
            fill(producer)
            self.assertEqual([bytes(part) for part in kept], [b"1" * 10] * 2)
            pins = []
            with self.assertRaises(holdfast.Busy):
                for _ in range(64):
                    pins.append(consumer.pin().view[:1])
                    fill(producer)
            kept.clear()
            pins.clear()
            fill(producer)

    def test_what_goes_wrong_has_a_type_and_a_sentence(self) -> None:
        with self.assertRaisesRegex(holdfast.UnknownName, "no block nothing"):
            self.blocks.consumer("nothing")
        with self.assertRaisesRegex(holdfast.InvalidArgument, "not a name"):
            self.blocks.producer("../b")
        with self.blocks.producer("b", size=10) as producer:
            with self.assertRaises(holdfast.TooLarge):
                producer.publish(b"x" * 11)
            producer.publish(b"x")
            consumer = self.blocks.consumer("b")
            consumer.lock()
            with self.assertRaises(TimeoutError):
                producer.publish(b"y", timeout=0.01)
            consumer.unlock()
            self.blocks.remove("b")
            with self.assertRaises(holdfast.Removed):
                consumer.read()
        with self.assertRaises(holdfast.OutOfOrder):
            producer.publish(b"x")
        consumer.close()

    def test_a_group_is_read_together(self) -> None:
        with self.blocks.group("g") as group, self.blocks.producer("a", group="g") as a:
            with self.blocks.producer("b", group="g") as b:
                group.hold_for_writing()
                self.assertEqual((group.publish(a, b"1"), group.publish(b, b"1")), (1, 1))
                group.release()
                group.hold_for_reading()
                with self.assertRaises(holdfast.Busy):
                    a.publish(b"2", timeout=0.01)

    def test_others_run_while_one_waits(self) -> None:
        with self.blocks.producer("b") as producer, self.blocks.producer("b") as other:
            producer.publish(b"first")
            consumer = self.blocks.consumer("b")
            consumer.read()
            thread = threading.Thread(target=lambda: other.publish(b"second"))
            thread.start()
            self.assertTrue(consumer.wait(30))
            thread.join()
            self.assertEqual(consumer.read(), b"second")
            consumer.close()

    def test_threads_take_turns(self) -> None:
        producer = self.blocks.producer("b")
        self.addCleanup(producer.close)
        producer.publish(b"0" * 100)
        consumer = self.blocks.consumer("b")
        problems = []

        def publish(digit: bytes) -> None:
            try:
                for _ in range(300):
                    producer.publish(digit * 100)
                    content = consumer.read()
                    if len(set(content)) != 1:
                        problems.append(content)
            except holdfast.HoldfastError as problem:
                problems.append(problem)

        threads = [threading.Thread(target=publish, args=(digit,)) for digit in (b"1", b"2", b"3", b"4")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertEqual(producer.publish(b"last"), 1202)

        # While one waits, another's turn does not come; who closes it does not wait.
        consumer.read()
        waited = []
        thread = threading.Thread(target=lambda: waited.append(consumer.wait(60)))
        thread.start()
        while consumer._turn.acquire(blocking=False):
            consumer._turn.release()
        with self.assertRaises(holdfast.Busy):
            consumer.lock(timeout=0.01)
        consumer.close()
        producer.publish(b"more")
        thread.join()
        self.assertEqual(waited, [True])
        with self.assertRaises(holdfast.OutOfOrder):
            consumer.read()

    def test_who_closes_lets_a_wait_come_to_its_end(self) -> None:
        producer = self.blocks.producer("b")
        self.addCleanup(producer.close)
        producer.publish(b"1")
        consumer = self.blocks.consumer("b")
        consumer.read()
        pieces, waited, real = threading.Semaphore(0), [], _abi.call

        def counted(name: str, *arguments: Any) -> None:
            pieces.release()
            real(name, *arguments)

        with mock.patch.object(_handle, "call", counted):
            thread = threading.Thread(target=lambda: waited.append(consumer.wait(60)))
            thread.start()
            self.assertTrue(pieces.acquire(timeout=30))
            consumer.close()
            for _ in range(2):
                self.assertTrue(pieces.acquire(timeout=30))
            producer.publish(b"2")
            thread.join()
        self.assertEqual((waited, consumer._left), ([True], None))
        with self.assertRaises(holdfast.OutOfOrder):
            consumer.read()

    def test_a_child_that_was_forked_has_files_of_its_own(self) -> None:
        producer, other = self.blocks.producer("b"), self.blocks.producer("b")
        producer.publish(b"1" * 100_000)
        producer.hold()
        consumer = self.blocks.consumer("b")
        pinned = consumer.pin()
        child = os.fork()
        if child == 0:
            problem = 1
            with contextlib.suppress(holdfast.Busy):
                # Read it may, but not write.
                problem = int(consumer.read() != b"1" * 100_000) * 2
                producer.publish(b"x", timeout=0.01)
                problem = 3
            for opened in (producer, consumer, pinned):
                opened.close()
            os._exit(problem)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        with self.assertRaises(holdfast.Busy):
            other.publish(b"x", timeout=0.01)
        self.assertEqual(bytes(pinned.view), b"1" * 100_000)
        for opened in (pinned, consumer, producer, other):
            opened.close()

    def test_a_producer_is_killed_and_the_next_goes_on(self) -> None:
        program = (
            "import holdfast, sys\n"
            "producer = holdfast.Blocks.open(sys.argv[1]).producer('b')\n"
            "producer.hold()\n"
            "producer.publish(b'a' * 50_000)\n"
            "print('held', flush=True)\n"
            "while True: producer.publish(b'a' * 50_000)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program, str(self.path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            self.assertEqual(child.stdout.readline(), b"held\n")
            with self.blocks.producer("b") as producer, self.blocks.consumer("b") as consumer:
                with self.assertRaises(holdfast.Busy):
                    producer.publish(b"b", timeout=0.01)
                child.send_signal(signal.SIGKILL)
                child.wait()
                self.assertEqual(consumer.read(), b"a" * 50_000)
                producer.publish(b"b")
                self.assertEqual(consumer.read(), b"b")


if __name__ == "__main__":
    unittest.main()

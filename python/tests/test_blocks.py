"""The package against the real library. HOLDFAST_LIBRARY names it where it is not installed."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

import holdfast


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

//! Items from one process to another, beside Redis over a unix socket: LPUSH in one process, BRPOP in the other.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ours::{self, Ours, some_day};
use crate::processes::{beside, is_told, ns_per_operation};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, ITEM};

/// Most items in the queue; Redis has no bound, but a producer that waits for each answer is never far ahead.
const CAPACITY: u64 = 1024;

pub fn run(table: &mut Table, effort: Effort) {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
    let socket = directory.path().join("socket");
    let server = Server::start(directory.path(), &socket);
    let ours = Ours::new(64 << 20);
    let generation = Cell::new(1000);
    let measured = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                generation.set(generation.get() + 1);
                let queue = ours.queue(&format!("redis {}", generation.get()), CAPACITY);
                beside(
                    |stop| ours::produce(&ours, queue, 1, generation.get(), &[7; ITEM], stop),
                    || {
                        let (mut seat, mut item, deadline) = (ours.seat(2), Vec::new(), some_day());
                        let pop = || ours::pop(&mut seat, queue, deadline, &mut item).expect("pop");
                        let ns = ns_per_operation(effort, pop);
                        seat.leave();
                        ns
                    },
                )
            },
            &mut || {
                beside(
                    |stop| {
                        let mut client = Client::to(&socket);
                        while !is_told(stop) {
                            client.push();
                        }
                    },
                    || {
                        let mut client = Client::to(&socket);
                        ns_per_operation(effort, || client.pop())
                    },
                )
            },
        ],
    );
    drop(server);
    let [mine, theirs] = &measured[..] else { unreachable!("two contenders") };
    let (one, other) = (Side { name: "queue", rounds: mine }, Side { name: "Redis", rounds: theirs });
    table.compare("LPUSH and BRPOP", &one, &other, &ratios(theirs, mine), Target::AtLeast(5.0));
}

struct Server(Child);

impl Server {
    fn start(directory: &Path, socket: &Path) -> Self {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--unixsocket",
        ]);
        command.arg(socket).arg("--dir").arg(directory).stdout(Stdio::null());
        let this = Self(command.spawn().expect("redis-server can be started"));
        let began = Instant::now();
        while UnixStream::connect(socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        this
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection to Redis; speaks RESP.
struct Client {
    stream: UnixStream,
    answer: [u8; 256],
}

impl Client {
    fn to(socket: &Path) -> Self {
        Self { stream: UnixStream::connect(socket).expect("Redis listens"), answer: [0; 256] }
    }

    fn push(&mut self) {
        let mut request = b"*3\r\n$5\r\nLPUSH\r\n$5\r\nqueue\r\n$64\r\n".to_vec();
        request.extend([b'7'; ITEM]);
        request.extend(b"\r\n");
        self.ask(&request, 1);
    }

    fn pop(&mut self) {
        self.ask(b"*3\r\n$5\r\nBRPOP\r\n$5\r\nqueue\r\n$1\r\n5\r\n", 5);
    }

    /// Sends a request and reads so many lines of answer.
    fn ask(&mut self, request: &[u8], lines: usize) {
        self.stream.write_all(request).expect("Redis reads");
        let mut length = 0;
        while self.answer[..length].iter().filter(|byte| **byte == b'\n').count() < lines {
            let read = self.stream.read(&mut self.answer[length..]).expect("Redis answers");
            assert!(read > 0, "Redis is gone");
            length += read;
        }
        assert_ne!(self.answer[0], b'-', "{}", String::from_utf8_lossy(&self.answer[..length]));
    }
}

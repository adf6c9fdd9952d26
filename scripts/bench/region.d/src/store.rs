//! One process, 1000 entries, random order: the region beside a store in a process of its own, over a unix socket.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::region::Region;

use crate::keys::{self, KEY, Keys, VALUE};
use crate::processes::{self, ns_per_operation};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, ours};

const ENTRIES: u64 = 1000;
/// Requests that a client may send before it reads the answers: the best that a store over a socket can do.
const BATCH: u64 = 64;

pub fn run(table: &mut Table, effort: Effort) {
    processes::unpin();
    let region = Region::create(&ours::memory_file(), 64 << 20).expect("a region");
    let mut seat = ours::seat(&region, 0, 1);
    let map = ours::filled(&mut seat, "map", ENTRIES);
    for protocol in [REDIS, MEMCACHED] {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
        let server = Server::start(&protocol, directory.path());
        let mut store = server.connect();
        for number in 0..ENTRIES {
            let key = keys::key(number);
            store.put(1, || key);
        }
        for batch in [1, BATCH] {
            let (mut mine, mut theirs) = (Keys::new(ENTRIES), Keys::new(ENTRIES));
            let puts = in_turn(
                effort.rounds,
                &mut [
                    &mut || {
                        ns_per_operation(effort, || {
                            let key = mine.next();
                            ours::put(&mut seat, map, &key, &keys::value(&key));
                        })
                    },
                    &mut || ns_per_operation(effort, || store.put(batch, || theirs.next())) / batch as f64,
                ],
            );
            let mut buffer = Vec::with_capacity(VALUE);
            let gets = in_turn(
                effort.rounds,
                &mut [
                    &mut || {
                        ns_per_operation(effort, || {
                            assert!(map.get_into(&region, &mine.next(), &mut buffer).expect("get"));
                            black_box(&buffer);
                        })
                    },
                    &mut || ns_per_operation(effort, || store.get(batch, || theirs.next())) / batch as f64,
                ],
            );
            // Sixty-four at a time is no request by itself any more; it is shown, and not judged.
            let (at_once, target) =
                if batch == 1 { ("", Target::AtLeast(3.0)) } else { (", 64 at a time", Target::None) };
            for (what, measured) in [("put", &puts), ("get", &gets)] {
                let [ours, others] = &measured[..] else { unreachable!("two contenders") };
                let (one, other) =
                    (Side { name: "region", rounds: ours }, Side { name: protocol.name, rounds: others });
                table.compare(
                    &format!("{what}{at_once}; {}", protocol.name),
                    &one,
                    &other,
                    &ratios(others, ours),
                    target,
                );
            }
        }
    }
}

/// How a store is started and spoken to.
struct Protocol {
    name: &'static str,
    program: &'static str,
    options: &'static [&'static str],
    socket_option: &'static str,
    put: fn(&mut Vec<u8>, &str, &[u8]),
    get: fn(&mut Vec<u8>, &str),
    /// What an answer to a put begins with, and lines of an answer to a get.
    stored: &'static str,
    lines_of_get: usize,
}

const REDIS: Protocol = Protocol {
    name: "Redis",
    program: "redis-server",
    options: &["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"],
    socket_option: "--unixsocket",
    put: |out, key, value| {
        let _ = write!(out, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    },
    get: |out, key| {
        let _ = write!(out, "*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
    },
    stored: "+OK",
    lines_of_get: 2,
};

const MEMCACHED: Protocol = Protocol {
    name: "memcached",
    program: "memcached",
    // As root it asks for a user; a thread more than one would have nothing to do.
    options: &["-u", "nobody", "-t", "1", "-m", "64", "-a", "0777"],
    socket_option: "-s",
    put: |out, key, value| {
        let _ = write!(out, "set {key} 0 0 {}\r\n", value.len());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    },
    get: |out, key| {
        let _ = write!(out, "get {key}\r\n");
    },
    stored: "STORED",
    lines_of_get: 3,
};

struct Server<'a> {
    protocol: &'a Protocol,
    process: Child,
    socket: std::path::PathBuf,
}

impl<'a> Server<'a> {
    fn start(protocol: &'a Protocol, directory: &Path) -> Self {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory, everybody).expect("permissions");
        let socket = directory.join("socket");
        let mut command = Command::new(protocol.program);
        command.args(protocol.options).arg(protocol.socket_option).arg(&socket);
        let process = command.current_dir(directory).stdout(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| panic!("cannot start {}: {error}", protocol.program));
        let this = Self { protocol, process, socket };
        let began = Instant::now();
        while UnixStream::connect(&this.socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "{} does not answer", protocol.program);
            std::thread::sleep(Duration::from_millis(10));
        }
        this
    }

    fn connect(&self) -> Client<'a> {
        let stream = UnixStream::connect(&self.socket).expect("it listens");
        let answers = BufReader::new(stream.try_clone().expect("another descriptor"));
        Client { protocol: self.protocol, stream, answers, request: Vec::new(), line: Vec::new() }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client<'a> {
    protocol: &'a Protocol,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    request: Vec<u8>,
    line: Vec<u8>,
}

impl Client<'_> {
    fn put(&mut self, batch: u64, mut next: impl FnMut() -> [u8; KEY]) {
        self.request.clear();
        for _ in 0..batch {
            let key = next();
            // Printable in both: neither takes a blank or a newline in what it reads as lines.
            let value = printable(&keys::value(&key));
            (self.protocol.put)(&mut self.request, &name(&key), &value);
        }
        self.stream.write_all(&self.request).expect("it reads");
        for _ in 0..batch {
            self.hear();
            assert!(
                self.line.starts_with(self.protocol.stored.as_bytes()),
                "{}",
                String::from_utf8_lossy(&self.line)
            );
        }
    }

    fn get(&mut self, batch: u64, mut next: impl FnMut() -> [u8; KEY]) {
        self.request.clear();
        for _ in 0..batch {
            (self.protocol.get)(&mut self.request, &name(&next()));
        }
        self.stream.write_all(&self.request).expect("it reads");
        for _ in 0..batch {
            for number in 0..self.protocol.lines_of_get {
                self.hear();
                assert!(
                    number != 1 || self.line.len() == VALUE + 2,
                    "{}",
                    String::from_utf8_lossy(&self.line)
                );
            }
        }
    }

    fn hear(&mut self) {
        self.line.clear();
        let read = self.answers.read_until(b'\n', &mut self.line).expect("it answers");
        assert!(read > 0, "{} is gone", self.protocol.name);
    }
}

/// The first half of a key in hexadecimal: 16 bytes, as the region's key has.
fn name(key: &[u8; KEY]) -> String {
    format!("{:016x}", u64::from_le_bytes(key[..8].try_into().expect("eight bytes")))
}

fn printable(value: &[u8; VALUE]) -> [u8; VALUE] {
    value.map(|byte| b'a' + byte % 16)
}

//! `cclient` as its users run it, against small servers that behave well, badly, and not at all.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing here takes this long, however loaded the machine is.
const DEADLINE: Duration = Duration::from_secs(120);

/// A server in this process: a thread per connection.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves every connection with `serve`, which is told its number.
    fn start(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // The standard library's backlog is too short for a thousand connections at once.
        socket::listen(&listener, Backlog::new(4096).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let (count, stop, serve) = (Arc::clone(&connections), Arc::clone(&stopping), Arc::new(serve));
        let acceptor = std::thread::spawn(move || {
            loop {
                let (stream, _) = listener.accept().unwrap();
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let (number, serve) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&serve));
                let thread = std::thread::Builder::new().stack_size(256 * 1024);
                thread.spawn(move || serve(stream, number)).unwrap();
            }
        });
        Self { address, connections, stopping, acceptor: Some(acceptor) }
    }

    /// Answers each request with what `answer` makes of it, until the other side hangs up.
    fn answering(answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        Self::start(move |stream, _| {
            let mut writer = stream.try_clone().unwrap();
            let mut reader = BufReader::new(stream);
            while let Some(request) = Request::read(&mut reader) {
                if writer.write_all(answer(&request).as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Runs `cclient` with this server, to its end.
    fn cclient(&self, threads: usize, options: &[&str]) -> Run {
        let (port, threads) = (self.address.port().to_string(), threads.to_string());
        let required = ["127.0.0.1", &port, &threads, "arijort:lalala"];
        cclient(&[&required, options].concat())
    }

    /// The same, and the JSON object it printed.
    fn report(&self, threads: usize, options: &[&str]) -> (Run, Value) {
        let run = self.cclient(threads, &[options, &["--json"]].concat());
        let object = run.json();
        (run, object)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
    }
}

struct Request {
    user: String,
    message: String,
}

impl Request {
    /// The next request, unless the connection ended, was reset, or stays silent.
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let (user, message) = line.strip_suffix('\n').expect("a whole line").split_once(':').unwrap();
        Some(Self { user: user.to_owned(), message: message.to_owned() })
    }

    fn reply(&self) -> String {
        format!("server 29756 recvd message \"{}\" from user {}", self.message, self.user)
    }

    fn reply_line(&self) -> String {
        self.reply() + "\n"
    }

    fn token(&self) -> &str {
        self.message.rsplit_once(' ').unwrap().1
    }
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The one JSON object that is all of stdout.
    fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{} {}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Failed with one sentence on stderr that says `what`.
    fn assert_failed(&self, code: i32, what: &str) {
        assert_eq!(self.code, Some(code), "{} {}", self.stdout, self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("cclient: ") && self.stderr.contains(what), "{}", self.stderr);
    }

    fn assert_clean(&self) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
    }
}

fn cclient(arguments: &[&str]) -> Run {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_cclient"));
    Run::of(command.args(arguments).timeout(DEADLINE).output().unwrap())
}

/// A port that refuses connections for as long as this is held: bound, but not listening.
struct RefusingPort {
    port: String,
    _socket: std::os::fd::OwnedFd,
}

impl RefusingPort {
    fn new() -> Self {
        let socket =
            socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let address = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).unwrap();
        let port = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port().to_string();
        Self { port, _socket: socket }
    }
}

#[test]
fn one_message_per_connection_by_default() {
    let server = Server::answering(Request::reply_line);
    let run = server.cclient(7, &[]);
    run.assert_clean();
    let lines: Vec<&str> = run.stdout.lines().collect();
    let port = server.address.port();
    assert_eq!(lines[0], format!("connecting to host:port 127.0.0.1:{port} with 7 threads"));
    assert_eq!(lines[1], "handled 7 requests");
    assert!(lines[2].starts_with("wall time ") && lines[3].starts_with("latency p50 "), "{}", run.stdout);
    assert_eq!(lines.len(), 4, "{}", run.stdout);
    assert_eq!(server.connections(), 7);
}

#[test]
fn requests_are_the_total_and_each_is_sent_once() {
    for (options, connections) in [(&[][..], 500), (&["--keep-alive"], 4), (&["--event-threads", "3"], 500)] {
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&received);
        let server = Server::answering(move |request| {
            assert_eq!((request.user.as_str(), &request.message[..7]), ("arijort", "lalala "));
            seen.lock().unwrap().push(request.token().to_owned());
            request.reply_line()
        });
        let (run, report) = server.report(4, &[&["--requests", "500"], options].concat());
        run.assert_clean();
        assert_eq!(report["requests"], 500);
        assert_eq!(report["errors"], 0);
        assert!(report["rate"].as_f64().unwrap() > 0.0 && report["wall_ms"].is_u64());
        let quantiles =
            ["p50", "p90", "p99", "p999", "max"].map(|name| report["latency_us"][name].as_u64().unwrap());
        assert!(quantiles.is_sorted(), "{quantiles:?}");
        assert_eq!(report.get("lost"), None);
        assert_eq!(server.connections(), connections, "{options:?}");
        let received = received.lock().unwrap();
        assert_eq!(received.len(), 500);
        assert_eq!(received.iter().collect::<BTreeSet<_>>().len(), 500);
    }
}

/// Who closes first keeps the port in TIME_WAIT, and there are too few ports for that: answered connections are reset.
#[test]
fn answered_connections_are_reset() {
    for (options, connections) in
        [(&["--requests", "40"][..], 40), (&["--requests", "40", "--keep-alive"], 5)]
    {
        let (resets, changed) = (Arc::new(Mutex::new(0)), Arc::new(Condvar::new()));
        let (count, notify) = (Arc::clone(&resets), Arc::clone(&changed));
        let server = Server::start(move |stream, _| {
            let mut reader = BufReader::new(&stream);
            while let Some(request) = Request::read(&mut reader) {
                (&stream).write_all(request.reply_line().as_bytes()).unwrap();
                if reader.fill_buf().is_err_and(|cause| cause.kind() == ErrorKind::ConnectionReset) {
                    *count.lock().unwrap() += 1;
                    notify.notify_all();
                    return;
                }
            }
        });
        server.cclient(5, options).assert_clean();
        let resets = resets.lock().unwrap();
        let waited = changed.wait_timeout_while(resets, DEADLINE, |resets| *resets < connections).unwrap();
        assert_eq!(*waited.0, connections);
    }
}

#[test]
fn no_more_connections_than_requests() {
    let server = Server::answering(Request::reply_line);
    server.cclient(50, &["--requests", "3"]).assert_clean();
    assert_eq!(server.connections(), 3);
}

#[test]
fn the_seeds_server_is_understood() {
    for keep_alive in [&[][..], &["--keep-alive"]] {
        let server = Server::start(|mut stream, _| {
            stream.write_all(b"hello world\n").unwrap();
            let request = Request::read(&mut BufReader::new(&stream)).unwrap();
            stream.write_all(format!("{}\0\0 and rubbish", request.reply()).as_bytes()).unwrap();
        });
        let (run, report) = server.report(5, &[&["--requests", "50"], keep_alive].concat());
        run.assert_clean();
        assert_eq!(report["requests"], 50);
        assert_eq!(server.connections(), 50);
    }
}

#[test]
fn a_reply_may_come_byte_by_byte() {
    let server = Server::start(|stream, _| {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(&stream);
        while let Some(request) = Request::read(&mut reader) {
            for byte in format!("greeting\n{}", request.reply_line()).as_bytes() {
                (&stream).write_all(&[*byte]).unwrap();
            }
        }
    });
    let (run, report) = server.report(2, &["--requests", "20", "--keep-alive"]);
    run.assert_clean();
    assert_eq!(report["requests"], 20);
}

#[test]
fn a_thousand_connections_are_open_at_once() {
    let (arrived, all) = (Mutex::new(0), Condvar::new());
    let server = Server::answering(move |request| {
        let mut arrived = arrived.lock().unwrap();
        *arrived += 1;
        all.notify_all();
        // Nobody is answered before everybody has asked.
        let waited = all.wait_timeout_while(arrived, DEADLINE, |arrived| *arrived < 1000).unwrap();
        if waited.1.timed_out() { "error busy: some are missing\n".to_owned() } else { request.reply_line() }
    });
    let (run, report) = server.report(1000, &["--timeout", "100s"]);
    run.assert_clean();
    assert_eq!(report["requests"], 1000);
    assert_eq!(server.connections(), 1000);
}

#[test]
fn error_lines_are_counted_by_kind() {
    const KINDS: [&str; 7] = ["unauthorized", "malformed", "too-long", "full", "timeout", "busy", "surprise"];
    for keep_alive in [&[][..], &["--keep-alive"]] {
        let next = AtomicUsize::new(0);
        let server = Server::start(move |stream, _| {
            let mut reader = BufReader::new(&stream);
            while let Some(request) = Request::read(&mut reader) {
                let kind = KINDS.get(next.fetch_add(1, Ordering::SeqCst) % 8);
                let line =
                    kind.map_or_else(|| request.reply_line(), |kind| format!("error {kind}: because\n"));
                let _ = (&stream).write_all(line.as_bytes());
                if matches!(kind, Some(&("too-long" | "timeout"))) {
                    return;
                }
            }
        });
        let (run, report) = server.report(1, &[&["--requests", "16"], keep_alive].concat());
        run.assert_failed(1, "14 of 16 requests");
        assert_eq!((&report["requests"], &report["errors"]), (&json!(2), &json!(14)));
        let expected = json!({
            "error unauthorized": 2, "error malformed": 2, "error too-long": 2, "error full": 2,
            "error timeout": 2, "error busy": 2, "error of another kind": 2,
        });
        assert_eq!(report["errors_by_kind"], expected);
    }
}

#[test]
fn an_answer_before_the_whole_request_was_read_is_an_answer() {
    let server = Server::start(|mut stream, _| {
        let mut some = [0; 10];
        stream.read_exact(&mut some).unwrap();
        stream.write_all(b"error too-long: at most 64 KiB\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let message = format!("arijort:{}", "x".repeat(120_000));
    let run = cclient(&["127.0.0.1", &server.address.port().to_string(), "3", &message, "--json"]);
    run.assert_failed(1, "error too-long");
    assert_eq!(run.json()["errors_by_kind"], json!({ "error too-long": 3 }));
}

#[test]
fn long_messages_arrive_whole() {
    let message = format!("arijort:{}", "abcdefgh".repeat(8_000));
    let expected = message.clone();
    let server = Server::answering(move |request| {
        let sent = format!("{}:{}", request.user, request.message);
        assert!(sent.starts_with(&expected));
        request.reply_line()
    });
    let port = server.address.port().to_string();
    cclient(&["127.0.0.1", &port, "4", &message, "--requests", "40", "--keep-alive"]).assert_clean();
}

#[test]
fn a_connection_closed_without_reply_is_an_error() {
    let server = Server::start(|stream, _| {
        let request = Request::read(&mut BufReader::new(&stream)).unwrap();
        let reply = request.reply();
        (&stream).write_all(&reply.as_bytes()[..reply.len() - 1]).unwrap();
    });
    let (run, report) = server.report(3, &[]);
    run.assert_failed(1, "closed without reply");
    assert_eq!(report["requests"], 0);
    assert_eq!(report["errors_by_kind"], json!({ "closed without reply": 3 }));
    // Nothing is sent twice, whatever became of it.
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_reset_connection_is_an_error() {
    // Closing with unread data is what makes the kernel send a reset.
    let server = Server::start(|stream, _| while !matches!(stream.peek(&mut [0]), Ok(1)) {});
    let (run, report) = server.report(3, &[]);
    run.assert_failed(1, "connection reset");
    assert_eq!(report["errors_by_kind"], json!({ "connection reset": 3 }));
}

#[test]
fn a_reply_to_another_request_does_not_count() {
    let server = Server::start(|stream, _| {
        let request = Request::read(&mut BufReader::new(&stream)).unwrap();
        let other = Request { user: request.user, message: format!("{}0", request.message) };
        (&stream).write_all(other.reply_line().as_bytes()).unwrap();
    });
    let (run, report) = server.report(2, &[]);
    run.assert_failed(1, "closed without reply");
    assert_eq!(report["requests"], 0);
}

#[test]
fn a_server_that_never_answers_times_out() {
    let server = Server::start(|mut stream, _| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let (run, report) = server.report(10, &["--timeout", "150ms"]);
    run.assert_failed(1, "timed out");
    assert_eq!(report["errors_by_kind"], json!({ "timed out": 10 }));
    assert!(report["wall_ms"].as_u64().unwrap() >= 150);
}

#[test]
fn a_server_that_never_stops_talking_times_out() {
    let server = Server::start(|mut stream, _| while stream.write_all(&[b'\n'; 4096]).is_ok() {});
    let (run, report) = server.report(2, &["--timeout", "150ms"]);
    run.assert_failed(1, "timed out");
    assert_eq!(report["errors"], 2);
}

#[test]
fn a_line_without_end_is_cut_off() {
    let server = Server::start(|mut stream, _| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    let (run, report) = server.report(2, &["--timeout", "100s"]);
    run.assert_failed(1, "reply too long");
    assert_eq!(report["errors_by_kind"], json!({ "reply too long": 2 }));
}

#[test]
fn a_refused_connection_is_a_sentence() {
    let refusing = RefusingPort::new();
    let run = cclient(&["127.0.0.1", &refusing.port, "3", "arijort:lalala", "--requests", "30"]);
    run.assert_failed(1, "30 of 30 requests");
    assert!(run.stderr.contains("connection refused: start the server"), "{}", run.stderr);
    assert!(
        run.stdout.contains("handled 0 requests\n")
            && run.stdout.contains("errors 30: connection refused 30\n")
    );
}

#[test]
fn an_unknown_host_is_a_sentence() {
    cclient(&["no-such-host.invalid", "1", "1", "a:b"]).assert_failed(1, "no-such-host.invalid");
}

#[test]
fn wrong_usage() {
    for (arguments, what) in [
        (&[][..], "required arguments were not provided"),
        (&["localhost", "1", "1"], "MESSAGE"),
        (&["localhost", "1", "1", "no colon"], "USER:MESSAGE"),
        (&["localhost", "1", "1", ":no user"], "USER:MESSAGE"),
        (&["localhost", "1", "1", "two:lines\n"], "USER:MESSAGE"),
        (&["localhost", "65536", "1", "a:b"], "65536"),
        (&["localhost", "0", "1", "a:b"], "PORT"),
        (&["localhost", "1", "0", "a:b"], "THREADS"),
        (&["localhost", "1", "many", "a:b"], "many"),
        (&["localhost", "1", "1", "a:b", "--requests", "0"], "--requests"),
        (&["localhost", "1", "1", "a:b", "--requests", "1", "--duration", "1s"], "--duration"),
        (&["localhost", "1", "1", "a:b", "--duration", "0s"], "--duration"),
        (&["localhost", "1", "1", "a:b", "--timeout", "5"], "--timeout"),
        (&["localhost", "1", "1", "a:b", "--frobnicate"], "--frobnicate"),
        (&["localhost", "1", "1", "a:b", "--check", "/no/such/spool"], "/no/such/spool"),
    ] {
        let run = cclient(arguments);
        run.assert_failed(2, what);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn help_and_version() {
    for (option, what) in [("--help", "Usage: cclient"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let run = cclient(&[option]);
        run.assert_clean();
        assert!(run.stdout.contains(what), "{}", run.stdout);
    }
}

#[test]
fn for_a_time() {
    let server = Server::answering(Request::reply_line);
    let (run, report) = server.report(2, &["--duration", "200ms", "--keep-alive"]);
    run.assert_clean();
    assert!(report["requests"].as_u64().unwrap() > 0);
    assert!(report["wall_ms"].as_u64().unwrap() >= 200);
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_signal_ends_the_run_with_its_report() {
    let handled = Arc::new((AtomicU64::new(0), Mutex::new(()), Condvar::new()));
    let count = Arc::clone(&handled);
    let server = Server::answering(move |request| {
        count.0.fetch_add(1, Ordering::SeqCst);
        count.2.notify_all();
        request.reply_line()
    });
    let child = Command::new(env!("CARGO_BIN_EXE_cclient"))
        .args(["127.0.0.1", &server.address.port().to_string(), "2", "arijort:lalala", "--json"])
        .args(["--duration", "1h", "--keep-alive"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (count, lock, changed) = &*handled;
    let some = |_: &mut ()| count.load(Ordering::SeqCst) < 10;
    let waited = changed.wait_timeout_while(lock.lock().unwrap(), DEADLINE, some).unwrap();
    assert!(!waited.1.timed_out());
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    run.assert_failed(1, "signal");
    let report = run.json();
    assert!(report["requests"].as_u64().unwrap() >= 9);
    assert_eq!(report["errors"], 0);
}

#[test]
fn quiet_prints_nothing_for_people() {
    let server = Server::answering(Request::reply_line);
    let run = server.cclient(1, &["--quiet"]);
    run.assert_clean();
    assert_eq!(run.stdout, "");
    let (run, report) = server.report(1, &["--quiet"]);
    run.assert_clean();
    assert_eq!(report["requests"], 1);
}

#[test]
fn output_that_cannot_be_written_is_a_sentence() {
    let server = Server::answering(Request::reply_line);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cclient"))
        .args(["127.0.0.1", &server.address.port().to_string(), "1", "arijort:lalala", "--json"])
        .stdout(full)
        .output()
        .unwrap();
    Run::of(output).assert_failed(1, "standard output");
}

#[test]
fn the_limit_of_open_files() {
    let server = Server::answering(Request::reply_line);
    let limited = |limit: &str, threads: &str| {
        let mut command = Command::new("sh");
        command.arg0("sh").args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
        command.args([
            env!("CARGO_BIN_EXE_cclient"),
            "127.0.0.1",
            &server.address.port().to_string(),
            threads,
        ]);
        Run::of(command.arg("arijort:lalala").output().unwrap())
    };
    let run = limited("-n 100", "200");
    run.assert_failed(2, "hard limit is 100");
    assert!(run.stderr.contains("at most 36"), "{}", run.stderr);
    limited("-Sn 100", "200").assert_clean();
}

/// A spool, and the server that writes it.
struct Journal {
    spool: TempDir,
    /// One minute for the whole test, whatever the clock does meanwhile.
    minute: u64,
    next: AtomicU64,
}

impl Journal {
    fn new() -> Arc<Self> {
        Arc::new(Self { spool: TempDir::new().unwrap(), minute: minute(), next: AtomicU64::new(0) })
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.spool.path().join(format!("{}.{extension}", self.minute))
    }

    fn append(&self, bytes: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path("dat")).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
    }

    fn next_id(&self) -> String {
        format!("1.2.3.{}", self.next.fetch_add(1, Ordering::SeqCst))
    }

    fn record(&self, user: &str, message: &str) {
        self.append(record(&self.next_id(), user, message));
    }

    /// A server that hands each request to `write` before it answers.
    fn server(self: &Arc<Self>, write: impl Fn(&Self, &Request, u64) + Send + Sync + 'static) -> Server {
        let (journal, count) = (Arc::clone(self), Mutex::new(0));
        Server::answering(move |request| {
            let mut count = count.lock().unwrap();
            write(&journal, request, *count);
            *count += 1;
            request.reply_line()
        })
    }

    fn check(&self, server: &Server, requests: &str) -> (Run, Value) {
        server.report(3, &["--requests", requests, "--check", self.spool.path().to_str().unwrap()])
    }
}

fn minute() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60
}

fn record(id: &str, user: &str, message: &str) -> String {
    let time = "2020-07-06T16:44:57.270823600Z";
    json!({ "id": id, "time": time, "pid": 29756, "user": user, "message": message }).to_string() + "\n"
}

fn findings(report: &Value) -> (u64, u64, u64) {
    let number = |name: &str| report[name].as_u64().unwrap();
    (number("lost"), number("duplicated"), number("altered"))
}

#[test]
fn a_sound_journal() {
    let journal = Journal::new();
    fs::write(journal.spool.path().join("1.dat"), record("old", "arijort", "of 1970")).unwrap();
    fs::write(journal.spool.path().join("sealed"), "1").unwrap();
    nix::unistd::mkfifo(&journal.spool.path().join("2.dat"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let server = journal.server(|journal, request, number| {
        match number % 4 {
            0 => journal.append([0; 5000]),
            1 => journal.append(" ".repeat(200)),
            2 => journal.record("foobar", "of another run 0123456789abcdef-1"),
            _ => journal.append("   \n"),
        }
        journal.record(&request.user, &request.message);
    });
    let (run, report) = journal.check(&server, "40");
    run.assert_clean();
    assert_eq!(findings(&report), (0, 0, 0));

    let run = server.cclient(2, &["--check", journal.spool.path().to_str().unwrap()]);
    run.assert_clean();
    let line = "check: 0 lost, 0 duplicated, 0 altered; 2 records of this run in 2 files\n";
    assert!(run.stdout.contains(line), "{}", run.stdout);
}

#[test]
fn lost_messages_are_found() {
    let journal = Journal::new();
    let server = journal.server(|journal, request, number| match number {
        3 => {}
        // Torn, as if its writer had been killed, and never repaired.
        5 => journal.append(record("torn", &request.user, &request.message).split_at(30).0.to_owned() + "\n"),
        // Not a record: it has no id.
        7 => journal.append(json!({ "user": request.user, "message": request.message }).to_string() + "\n"),
        _ => journal.record(&request.user, &request.message),
    });
    let (run, report) = journal.check(&server, "20");
    run.assert_failed(1, "3 lost, 0 duplicated, 0 altered");
    assert_eq!(findings(&report), (3, 0, 0));
    assert_eq!(report["requests"], 20);
}

#[test]
fn duplicated_messages_are_found() {
    let journal = Journal::new();
    let server = journal.server(|journal, request, number| match number {
        // The same message under two ids, the same id for two messages, and the same record twice.
        3 => (0..2).for_each(|_| journal.record(&request.user, &request.message)),
        5 | 6 => journal.append(record("1.1.1.1", &request.user, &request.message)),
        7 => (0..2).for_each(|_| journal.append(record("1.1.1.2", &request.user, &request.message))),
        _ => journal.record(&request.user, &request.message),
    });
    let (run, report) = journal.check(&server, "20");
    run.assert_failed(1, "0 lost, 3 duplicated, 0 altered");
    assert_eq!(findings(&report), (0, 3, 0));
}

#[test]
fn altered_messages_are_found() {
    let journal = Journal::new();
    let server = journal.server(|journal, request, number| match number {
        3 => journal.record("foobar", &request.message),
        5 => journal.record(&request.user, &format!("{}!", request.message)),
        7 => journal.record(&request.user, &request.message.replace("lalala", "lalalala")),
        // Two recorded as they were sent, and a third that nobody sent.
        9 => {
            journal.record(&request.user, &request.message);
            journal.record(&request.user, &format!("{}999", request.message));
        }
        _ => journal.record(&request.user, &request.message),
    });
    let (run, report) = journal.check(&server, "20");
    run.assert_failed(1, "0 lost, 0 duplicated, 4 altered");
    assert_eq!(findings(&report), (0, 0, 4));
}

#[test]
fn unacknowledged_messages_may_be_recorded_or_not() {
    let journal = Journal::new();
    let (writer, count) = (Arc::clone(&journal), AtomicU64::new(0));
    let server = Server::answering(move |request| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        if !number.is_multiple_of(3) {
            writer.record(&request.user, &request.message);
        }
        if number % 3 == 2 { request.reply_line() } else { "error busy: later\n".to_owned() }
    });
    let (run, report) = journal.check(&server, "30");
    run.assert_failed(1, "20 of 30 requests");
    assert_eq!(report["requests"], 10);
    assert_eq!(findings(&report), (0, 0, 0));
}

#[test]
fn a_delivered_file_that_is_kept_still_counts() {
    let journal = Journal::new();
    let server = journal.server(|journal, request, number| {
        journal.record(&request.user, &request.message);
        if number == 9 {
            fs::rename(journal.path("dat"), journal.path("sent")).unwrap();
        }
        if number == 19 {
            // As found by somebody who lists the directory while the file is being renamed.
            fs::hard_link(journal.path("dat"), journal.spool.path().join("7.dat")).unwrap();
        }
    });
    let (run, report) = journal.check(&server, "20");
    run.assert_clean();
    assert_eq!(findings(&report), (0, 0, 0));
}

#[test]
fn a_minute_that_is_gone_is_named() {
    let journal = Journal::new();
    let server = journal.server(|_, _, _| ());
    let spool = journal.spool.path().to_str().unwrap();
    let before = minute();
    let run = server.cclient(1, &["--check", spool]);
    run.assert_failed(1, "1 lost");
    assert!(run.stdout.contains("check: lost "), "{}", run.stdout);
    let named =
        (before..=minute()).any(|minute| run.stdout.contains(&format!("check: {minute}.dat is not there")));
    assert!(named, "{}", run.stdout);
}

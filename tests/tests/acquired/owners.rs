//! Who owns the run directory, or the spool, and does not answer as an instance of this version that serves.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use common::places::{CONTROL_SOCKET, PID_FILE};
use common::sys::channel::{Channel, ChannelListener};
use common::sys::transport::receive_within;
use common::wire::control::{self, Listening, Response};
use nix::sys::signal::Signal;

use super::*;

/// An owner of the run directory that does with every connection the same.
struct Impostor {
    asked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _lock: File,
}

impl Impostor {
    fn who(place: &Place, does: impl Fn(&Channel) + Send + 'static) -> Self {
        std::fs::create_dir_all(place.run_dir()).unwrap();
        let lock = File::create(place.run_dir().join(PID_FILE)).unwrap();
        assert!(try_lock(&lock, Lock::Exclusive).unwrap());
        let listener = ChannelListener::bind(&place.run_dir().join(CONTROL_SOCKET)).unwrap();
        let (asked, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (Arc::clone(&asked), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                match listener.accept().unwrap() {
                    Some(channel) => {
                        count.fetch_add(1, Ordering::SeqCst);
                        let _ = receive_within(&channel, DEADLINE);
                        does(&channel);
                    }
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { asked, over, thread: Some(thread), _lock: lock }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

/// An `acquired` of the place whose supervisor says whenever it is started.
struct Tallied<'p> {
    place: &'p Place,
    directory: PathBuf,
}

impl<'p> Tallied<'p> {
    fn new(place: &'p Place) -> Self {
        let directory = place.file("bin");
        std::fs::create_dir_all(&directory).unwrap();
        install(&programs::path("acquired"), &directory.join("acquired"));
        let real = programs::path("supervisor");
        let script = format!(
            "#!/bin/sh\necho started >>'{}'\nexec '{}' \"$@\"\n",
            place.file("starts").display(),
            real.display()
        );
        install(&place.write("script", &script), &directory.join("supervisor"));
        Self { place, directory }
    }

    fn asking(&self, timeout: &str) -> Command {
        let usual = asking_within(self.place, timeout);
        let mut command = Command::new(self.directory.join("acquired"));
        command.args(usual.get_args()).stdin(Stdio::null());
        // Without what the tests' own environment has of options.
        usual.get_envs().for_each(|(variable, _)| _ = command.env_remove(variable));
        command
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.place.file("starts")).unwrap_or_default().lines().count()
    }
}

/// Copies a program, in a process of its own: a file that this one writes may be open in what another test starts at that
/// moment, and cannot be run until that has become another program.
fn install(from: &Path, to: &Path) {
    run(Command::new("install").args(["-m", "755"]).arg(from).arg(to)).assert_succeeded();
}

/// How long the whole patience is in these tests, and what is clearly less or more than that.
const PATIENCE: &str = "3s";
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn a_stopped_daemon_is_waited_for_as_long_as_the_whole_patience_lasts() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let port = acquire(&place);
    let daemon = the_daemon(&place);
    assert!(daemon.signal(Signal::SIGSTOP));
    let began = Instant::now();
    let outcome = run(&mut asking_within(&place, PATIENCE));
    outcome.assert_failed(1, &["does not answer within 3s", "is it stopped?", &daemon.pid.to_string()]);
    assert!(began.elapsed() >= Duration::from_secs(3) && began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert!(daemon.signal(Signal::SIGCONT));
    assert_eq!(acquire(&place), port);
    stop(&place);
}

#[test]
fn a_daemon_that_lets_nobody_in_any_more_is_waited_for_no_longer() {
    let place = Place::new();
    std::fs::create_dir_all(place.run_dir()).unwrap();
    let listener = ChannelListener::bind(&place.run_dir().join(CONTROL_SOCKET)).unwrap();
    // As full as it is when many have asked a daemon that is stopped.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let waiting: Vec<Running> = (0..4).map(|_| Running::start(&mut asking_within(&place, "2s"))).collect();
    for waiting in waiting {
        waiting.finish().assert_failed(1, &["does not answer within 2s", "is it stopped?"]);
    }
}

#[test]
fn an_owner_of_another_version_is_no_daemon_of_ours() {
    let listening = || {
        let version = "77.0.0".to_owned();
        Response::Listening(Listening { version, addresses: vec!["tcp:127.0.0.1:1".to_owned()] })
    };
    let says = move |channel: &Channel| channel.send(&control::encode(&listening()).unwrap(), &[]).unwrap();
    let speaks_otherwise = |channel: &Channel| channel.send(&[0xfd; 40], &[]).unwrap();
    let answers_something_else =
        |channel: &Channel| channel.send(&control::encode(&Response::Done).unwrap(), &[]).unwrap();
    type Does = Box<dyn Fn(&Channel) + Send>;
    let versions: [(Does, &str); 4] = [
        (Box::new(says), "77.0.0"),
        (Box::new(speaks_otherwise), "cannot read"),
        (Box::new(answers_something_else), "cannot read"),
        (Box::new(|_| {}), "ends every connection"),
    ];
    for (does, word) in versions {
        let place = Place::new();
        let tallied = Tallied::new(&place);
        let impostor = Impostor::who(&place, does);
        let began = Instant::now();
        let outcome = run(&mut tallied.asking("60s"));
        outcome.assert_failed(3, &[word, "another --run-dir", &*place.run_dir().to_string_lossy()]);
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert_eq!(tallied.starts(), 0, "the run directory has an owner");
        assert!(impostor.asked.load(Ordering::SeqCst) < 1000);
    }
}

#[test]
fn one_that_is_stopping_is_waited_for_and_followed() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let tallied = Tallied::new(&place);
    let first = port(&run(&mut tallied.asking("60s")));
    let old = the_daemon(&place);
    // A client in the middle of a line keeps its worker from leaving.
    let mut slow = Connection::to(&format!("tcp:127.0.0.1:{first}"));
    slow.send("arijort:first\n");
    slow.line();
    slow.send("arijort:half a li");
    assert!(old.signal(Signal::SIGTERM));
    until("it is stopping", || place.command("status", &["--json"]).stdout.contains("draining"));
    let waiting: Vec<Running> = (0..8).map(|_| Running::start(&mut tallied.asking("60s"))).collect();
    // One that came after them has gone already, without a second daemon.
    run(&mut tallied.asking("1s")).assert_failed(1, &["within 1s"]);
    assert!(Process::of(old.pid).is_some_and(|now| now.name == "supervisor"), "it waits for its client");
    assert_eq!(tallied.starts(), 1, "none is started beside it");
    drop(slow);
    let ports: BTreeSet<u16> = waiting.into_iter().map(|waiting| port(&waiting.finish())).collect();
    assert_eq!(ports.len(), 1);
    greet(*ports.first().unwrap());
    assert_eq!(tallied.starts(), 2);
    stop(&place);
}

#[test]
fn one_that_does_not_come_to_its_end_is_not_waited_for_without_limit() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let tallied = Tallied::new(&place);
    let first = port(&run(&mut tallied.asking("60s")));
    let mut slow = Connection::to(&format!("tcp:127.0.0.1:{first}"));
    slow.send("arijort:half a li");
    assert!(the_daemon(&place).signal(Signal::SIGTERM));
    until("it is stopping", || place.command("status", &["--json"]).stdout.contains("draining"));
    run(&mut tallied.asking("2s")).assert_failed(1, &["within 2s", "stopping"]);
    assert_eq!(tallied.starts(), 1);
    drop(slow);
    nobody_is_left(&place);
}

#[test]
fn a_spool_of_another_instance_is_said_at_once() {
    let (place, other) = (Place::new(), Place::new());
    let tallied = Tallied::new(&place);
    let instance = other.instance().spool_dir(place.spool_dir()).start();
    let began = Instant::now();
    run(&mut tallied.asking("60s"))
        .assert_failed(3, &["another instance writes to this spool", "--spool-dir"]);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(tallied.starts(), 1);
    instance.stop();
}

#[test]
fn workers_that_never_get_ready_are_said() {
    let place = Place::new();
    let mut command = asking(&place, "60s");
    command.arg("--worker").arg(programs::puppet()).env("PUPPET_REAL", programs::path("worker"));
    command.env("PUPPET_PLAY", "stillborn").env("PUPPET_CUE", "spawn").env("PUPPET_ROLE", "template");
    command.env("PUPPET_TALLY", place.file("tally"));
    run(&mut command).assert_failed(1, &["no worker gets ready"]);
    nobody_is_left(&place);
}

#[test]
fn an_instance_that_does_not_come_to_serve_is_waited_for_as_long_as_the_patience_lasts() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    // Loads for ever, and leaves with its supervisor.
    let worker = place.write("worker", "#!/bin/sh\ncat <&3 >/dev/null\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&worker, mode).unwrap();
    let tallied = Tallied::new(&place);
    let asking = || {
        let mut command = tallied.asking("2s");
        command.arg("--worker").arg(&worker);
        command
    };
    run(&mut asking()).assert_failed(1, &["does not come to serve within 2s", "log"]);
    // It goes on, and the next one waits for that one instead of starting another.
    run(&mut asking()).assert_failed(1, &["within 2s"]);
    assert_eq!(tallied.starts(), 1);
}

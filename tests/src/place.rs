//! The directories of an instance, and how one is started there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::instance::Instance;
use crate::journal::{self, Record};
use crate::outcome::{Outcome, Running};
use crate::{processes, programs};

/// A run directory and a spool of a test's own. Outlives the instances that are started there, one after the other.
#[derive(Debug)]
pub struct Place {
    run: TempDir,
    spool: TempDir,
}

/// What the name of every directory of a test begins with.
pub const PREFIX: &str = "holdfast-test-";

/// The shared memory's file system is not used where a container gave it next to nothing.
const MEMORY_NEEDED: u64 = 512 << 20;

impl Place {
    /// A new place: the run directory in memory where that is possible, the spool on a disk.
    ///
    /// # Panics
    /// Where no directory can be made.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let free = statvfs(memory).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
        let above_run = if free >= MEMORY_NEEDED { memory.to_owned() } else { std::env::temp_dir() };
        let directory = |above: &Path| {
            let mut builder = tempfile::Builder::new();
            builder.prefix(PREFIX).tempdir_in(above).expect("a temporary directory can be made")
        };
        Self { run: directory(&above_run), spool: directory(&std::env::temp_dir()) }
    }

    /// Lets other users reach what an instance opens to them.
    ///
    /// # Panics
    /// Where that cannot be done.
    pub fn let_others_through(&self) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(self.run.path(), mode).expect("the mode of a directory can be changed");
    }

    /// The run directory. The first instance creates it.
    pub fn run_dir(&self) -> PathBuf {
        self.run.path().join("run")
    }

    /// The spool. The first instance creates it.
    pub fn spool_dir(&self) -> PathBuf {
        self.spool.path().join("spool")
    }

    /// A path for a file of the test's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.spool.path().join(name)
    }

    /// Writes a file of the test's own and gives its path.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// The region's file.
    pub fn region(&self) -> PathBuf {
        self.run_dir().join("region")
    }

    /// An instance to be started here, with few workers and a small region so that it starts in no time.
    pub fn instance(&self) -> Starting {
        Starting {
            run_dir: self.run_dir(),
            spool_dir: self.spool_dir(),
            pool: fixed_pool(4),
            region_size: "4MiB".to_owned(),
            listen: Vec::new(),
            says_listen: true,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            wrapper: Vec::new(),
            stdin: None,
            program: None,
        }
    }

    /// Starts an instance as [`Place::instance`] has it.
    #[track_caller]
    pub fn start(&self) -> Instance {
        self.instance().start()
    }

    /// Runs `supervisor COMMAND --run-dir HERE ARGUMENTS`.
    #[track_caller]
    pub fn command(&self, command: &str, arguments: &[&str]) -> Outcome {
        command_in(&self.run_dir(), command, arguments)
    }

    /// Every record in the spool.
    #[track_caller]
    pub fn journal(&self) -> Vec<Record> {
        journal::read(&self.spool_dir())
    }

    /// Nobody has anything open here any more, and no command line names this place.
    ///
    /// # Panics
    /// Where somebody still does at the deadline.
    #[track_caller]
    pub fn no_process_left(&self) {
        crate::eventually(crate::DEADLINE, "every process is gone", || {
            let left = [self.run.path(), self.spool.path()].map(processes::users_of).concat();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `supervisor COMMAND --run-dir DIR ARGUMENTS`.
#[track_caller]
pub fn command_in(run_dir: &Path, command: &str, arguments: &[&str]) -> Outcome {
    let mut supervisor = program("supervisor");
    supervisor.arg(command).arg("--run-dir").arg(run_dir).args(arguments);
    crate::outcome::run(&mut supervisor)
}

/// A command for one of the programs, in an environment without options.
pub fn program(name: &str) -> Command {
    without_options(Command::new(programs::path(name)))
}

fn without_options(mut command: Command) -> Command {
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"HOLDFAST_") {
            command.env_remove(variable);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn fixed_pool(workers: u32) -> Vec<String> {
    vec!["--workers".to_owned(), workers.to_string()]
}

/// An instance that is about to be started.
#[derive(Debug)]
pub struct Starting {
    run_dir: PathBuf,
    spool_dir: PathBuf,
    pool: Vec<String>,
    region_size: String,
    listen: Vec<String>,
    says_listen: bool,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    wrapper: Vec<OsString>,
    stdin: Option<std::os::fd::OwnedFd>,
    program: Option<PathBuf>,
}

impl Starting {
    /// With so many workers.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.pool = fixed_pool(workers);
        self
    }

    /// Without a word about how many workers.
    #[must_use]
    pub fn without_pool(mut self) -> Self {
        self.pool.clear();
        self
    }

    /// With a dynamic pool of so many workers, at least and at most, and so many to spare, at least and at most.
    #[must_use]
    pub fn dynamic(
        mut self,
        workers: std::ops::RangeInclusive<u32>,
        spare: std::ops::RangeInclusive<u32>,
    ) -> Self {
        let bounds = [
            ("--min-workers", workers.start()),
            ("--max-workers", workers.end()),
            ("--min-spare", spare.start()),
            ("--max-spare", spare.end()),
        ];
        self.pool =
            bounds.iter().flat_map(|(option, value)| [(*option).to_owned(), value.to_string()]).collect();
        self
    }

    /// With a region of this size.
    #[must_use]
    pub fn region_size(mut self, size: &str) -> Self {
        size.clone_into(&mut self.region_size);
        self
    }

    /// Listening here; without any, on a port of the kernel's choice.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen.push(address.to_owned());
        self
    }

    /// Saying nothing of where to listen.
    #[must_use]
    pub fn without_listen(mut self) -> Self {
        self.says_listen = false;
        self
    }

    /// In another run directory.
    #[must_use]
    pub fn run_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.run_dir = path.into();
        self
    }

    /// With another spool.
    #[must_use]
    pub fn spool_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.spool_dir = path.into();
        self
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// With this as the supervisor's program.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// In another working directory.
    #[must_use]
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Started by a shell that does something first, such as setting a limit.
    #[must_use]
    pub fn after(self, shell: &str) -> Self {
        let script = format!("{shell} && exec \"$@\"");
        self.wrapped_by(&["/bin/sh", "-c", &script, "sh"])
    }

    /// Started by another program, which gets the supervisor and its arguments as its own last arguments.
    #[must_use]
    pub fn wrapped_by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// With this as its stdin.
    #[must_use]
    pub fn stdin(mut self, descriptor: impl Into<std::os::fd::OwnedFd>) -> Self {
        self.stdin = Some(descriptor.into());
        self
    }

    fn into_command(self) -> Command {
        let supervisor = self.program.unwrap_or_else(|| programs::path("supervisor"));
        let mut command = match self.wrapper.split_first() {
            None => Command::new(supervisor),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(supervisor);
                command
            }
        };
        command = without_options(command);
        command.args(&self.pool).args(["--region-size", &self.region_size]);
        command.arg("--run-dir").arg(self.run_dir).arg("--spool-dir").arg(self.spool_dir);
        let mut listen = self.listen;
        if listen.is_empty() && self.says_listen {
            listen.push("tcp:127.0.0.1:0".to_owned());
        }
        command.args(listen.iter().flat_map(|address| ["--listen", address]));
        command.args(self.arguments).envs(self.environment);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        if let Some(stdin) = self.stdin {
            command.stdin(stdin);
        }
        command
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn start(self) -> Instance {
        let mut instance = self.launch();
        instance.wait_until_serving();
        instance
    }

    /// Starts it and waits for nothing.
    #[track_caller]
    pub fn launch(self) -> Instance {
        let from = self.directory.clone().unwrap_or_default();
        let (run_dir, spool_dir) = (from.join(&self.run_dir), from.join(&self.spool_dir));
        Instance::new(Running::start(&mut self.into_command()), run_dir, spool_dir)
    }

    /// Starts it and waits until it has ended, since it should not be able to serve.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.launch().finish()
    }
}

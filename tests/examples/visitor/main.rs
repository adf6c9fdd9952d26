//! A program that is attached to an instance and does what its stdin says: `visitor RUN_DIR`. Every line is answered by
//! one line; an error begins with `error`.

mod forked;
mod threads;

use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use client::objects::{Counter, Folder, Map, Queue};
use client::{Session, SessionError, Transaction, TxnError, View};
use common::region::Region;
use common::sys::channel::{Channel, Received};
use common::sys::process::monotonic_ns;
use common::wire::control::{self, Access, Request};
use holdfast_tests::random::Random;
use nix::sys::socket::{Shutdown, shutdown};

fn main() {
    let run_dir = PathBuf::from(std::env::args_os().nth(1).expect("visitor RUN_DIR"));
    let mut visitor = Visitor { run_dir, session: None, view: None };
    while let Some(line) = heard() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match visitor.obey(&words) {
            Ok(answer) => say(&answer),
            Err(error) => say(&format!("error {error}")),
        }
    }
}

fn heard() -> Option<String> {
    let mut line = String::new();
    (std::io::stdin().lock().read_line(&mut line).ok()? > 0).then_some(line)
}

fn say(answer: &str) {
    println!("{answer}");
    let _ = std::io::stdout().flush();
}

type Answer = Result<String, Box<dyn std::error::Error>>;

struct Visitor {
    run_dir: PathBuf,
    session: Option<Session>,
    view: Option<View>,
}

impl Visitor {
    fn obey(&mut self, words: &[&str]) -> Answer {
        match *words {
            ["attach"] => self.attach(),
            ["view"] => {
                self.view = Some(View::attach(&self.run_dir)?);
                Ok("viewing".to_owned())
            }
            ["detach"] => {
                self.session.take().ok_or("not attached")?.detach()?;
                Ok("detached".to_owned())
            }
            ["open", accounts] => {
                let accounts = accounts.parse()?;
                self.session()?.change(|txn| open(txn, accounts))?;
                Ok("opened".to_owned())
            }
            ["push"] => {
                self.session()?.change(|txn| {
                    let queue = queue(txn)?;
                    txn.queue(queue)?.push_back(b"work")
                })?;
                Ok("pushed".to_owned())
            }
            // It is not finished.
            ["take"] => {
                let taken = self.session()?.change(|txn| {
                    let queue = queue(txn)?;
                    txn.queue(queue)?.take_front()
                })?;
                Ok(taken.map_or("nothing", |_| "taken").to_owned())
            }
            ["add"] => Ok(self.session()?.change(add)?.to_string()),
            ["transfer", from, to, amount] => {
                let (from, to, amount) = (from.parse()?, to.parse()?, amount.parse()?);
                self.session()?.change(|txn| transfer(txn, from, to, amount))?;
                Ok("done".to_owned())
            }
            ["run", accounts, seed] => self.run(accounts.parse()?, Random::new(seed.parse()?)),
            ["reside", accounts, seed] => self.reside(accounts.parse()?, seed.parse()?),
            ["hold"] => self.hold(),
            ["hold-queue"] => self.hold_queue(),
            // The lock is held, and this program is another.
            ["hold-and-exec"] => {
                let mut txn = self.session()?.begin()?;
                let accounts = accounts(&mut txn)?;
                txn.map(accounts)?.put(b"0", b"-1000000")?;
                say("holding");
                Err(std::process::Command::new("cat").exec().into())
            }
            // The lock is held, and its thread is gone.
            ["abandon"] => threads::abandon(&self.run_dir),
            // The child has every descriptor, and ends with the test.
            ["hold-in-child"] => {
                forked::leave_child(|| while heard().is_some() {});
                self.hold()
            }
            // When it had the lock.
            ["touch"] => Ok(self
                .session()?
                .change(|txn| {
                    let accounts = accounts(txn)?;
                    txn.map(accounts)?.put(b"touched", b"1")?;
                    Ok(monotonic_ns())
                })?
                .to_string()),
            ["first"] => self.first(),
            ["sum"] => Ok(self.read(sum)??.to_string()),
            ["count"] => Ok(self.read(count)??.to_string()),
            ["fork"] => self.fork(),
            ["cut"] => {
                cut_connections()?;
                Ok("cut".to_owned())
            }
            ["probe", access] => probe(&self.run_dir, access),
            ["crowd", count] => crowd(&self.run_dir, count.parse()?),
            _ => Err(format!("what is {words:?}?").into()),
        }
    }

    fn session(&mut self) -> Result<&mut Session, String> {
        self.session.as_mut().ok_or_else(|| "not attached".to_owned())
    }

    fn attach(&mut self) -> Answer {
        let session = Session::attach(&self.run_dir)?;
        let owner = session.owner();
        self.session = Some(session);
        Ok(format!("attached {} {}", owner.slot, owner.generation))
    }

    /// Microseconds from nothing to the end of a first transaction; and it detaches again.
    fn first(&mut self) -> Answer {
        let began = monotonic_ns();
        let mut session = Session::attach(&self.run_dir)?;
        session.change(add)?;
        let took = monotonic_ns() - began;
        session.detach()?;
        Ok((took / 1000).to_string())
    }

    /// Transfers without end, between accounts that change with the seed.
    fn run(&mut self, accounts: u64, mut random: Random) -> Answer {
        say("running");
        let session = self.session()?;
        loop {
            let (from, to) = (random.below(accounts), random.below(accounts));
            match session.change(|txn| transfer(txn, from, to, random.below(100))) {
                Ok(()) | Err(SessionError::Transaction(TxnError::Busy)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The same, attaching whenever it is not.
    fn reside(&mut self, accounts: u64, seed: u64) -> Answer {
        let mut random = Random::new(seed);
        loop {
            if self.session.is_none() && self.attach().is_err() {
                std::thread::sleep(std::time::Duration::from_millis(5));
                continue;
            }
            let (from, to, amount) = (random.below(accounts), random.below(accounts), random.below(100));
            match self.session()?.change(|txn| transfer(txn, from, to, amount)) {
                Ok(()) | Err(SessionError::Transaction(TxnError::Busy)) => {}
                Err(SessionError::Ended(_)) => self.session = None,
                Err(error) => return Err(error.into()),
            }
            // Where processors are few, workers are to have their turn.
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    /// Is inside a transaction that has changed something until it is told how that is to end.
    fn hold(&mut self) -> Answer {
        let mut txn = self.session()?.begin()?;
        let accounts = accounts(&mut txn)?;
        txn.map(accounts)?.put(b"0", b"-1000000")?;
        say("holding");
        match heard().unwrap_or_default().trim() {
            "commit" => txn.commit()?,
            // What it was before, whoever looks at it.
            "restore" => {
                txn.map(accounts)?.put(b"0", b"1000")?;
                txn.commit()?;
            }
            _ => drop(txn),
        }
        Ok("released".to_owned())
    }

    /// Has the queue's lock until it is told to give it back.
    fn hold_queue(&mut self) -> Answer {
        let mut txn = self.session()?.begin()?;
        let queue = queue(&mut txn)?;
        txn.queue(queue)?.len();
        say("holding");
        heard();
        txn.commit()?;
        Ok("released".to_owned())
    }

    fn read<T>(&mut self, read: impl FnOnce(&'static Region) -> T) -> Result<T, Box<dyn std::error::Error>> {
        match (&mut self.view, &mut self.session) {
            (Some(view), _) => Ok(read(view.region()?)),
            (_, Some(session)) => Ok(read(session.region()?)),
            _ => Err("not attached".into()),
        }
    }

    /// What a child can do with its parent's session; it is dropped there, too.
    fn fork(&mut self) -> Answer {
        let mut session = self.session.take().ok_or("not attached")?;
        session.change(add)?;
        let outcome = forked::outcome_of(|| {
            let begun = session.begin().err().map(|error| error.to_string());
            let read = session.region().err().map(|error| error.to_string());
            drop(session);
            format!("{begun:?} {read:?}")
        });
        Ok(outcome)
    }
}

fn open(txn: &mut Transaction<'_, 'static>, count: u64) -> Result<(), TxnError> {
    counter(txn)?;
    let accounts = accounts(txn)?;
    for account in 0..count {
        txn.map(accounts)?.put(account.to_string().as_bytes(), b"1000")?;
    }
    Ok(())
}

/// What is there already is found without the folder's lock, which another may hold.
fn accounts(txn: &mut Transaction<'_, 'static>) -> Result<Map, TxnError> {
    let region = txn.region();
    if let Ok(accounts) = Folder::open(region, "visitors").and_then(|bank| bank.open_map(region, "accounts"))
    {
        return Ok(accounts);
    }
    let bank = txn.open_or_create_folder("visitors")?;
    txn.open_or_create_map(bank, "accounts")
}

fn queue(txn: &mut Transaction<'_, 'static>) -> Result<Queue, TxnError> {
    let region = txn.region();
    if let Ok(queue) = Folder::open(region, "visitors").and_then(|bank| bank.open_queue(region, "work")) {
        return Ok(queue);
    }
    let bank = txn.open_or_create_folder("visitors")?;
    txn.open_or_create_queue(bank, "work", 0)
}

fn counter(txn: &mut Transaction<'_, 'static>) -> Result<Counter, TxnError> {
    let region = txn.region();
    if let Ok(count) = Folder::open(region, "visitors").and_then(|bank| bank.open_counter(region, "count")) {
        return Ok(count);
    }
    let bank = txn.open_or_create_folder("visitors")?;
    txn.open_or_create_counter(bank, "count")
}

fn add(txn: &mut Transaction<'_, 'static>) -> Result<u64, TxnError> {
    let counter = counter(txn)?;
    txn.counter(counter)?.add(1)
}

fn transfer(txn: &mut Transaction<'_, 'static>, from: u64, to: u64, amount: u64) -> Result<(), TxnError> {
    let accounts = accounts(txn)?;
    let balance = |value: Option<Vec<u8>>| -> i64 {
        value.and_then(|text| String::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
    };
    let mut change = |account: u64, by: i64| {
        let key = account.to_string();
        let has = balance(txn.map(accounts)?.get(key.as_bytes())?);
        txn.map(accounts)?.put(key.as_bytes(), (has + by).to_string().as_bytes()).map(drop)
    };
    change(from, -(amount as i64))?;
    change(to, amount as i64)
}

fn sum(region: &Region) -> Result<i64, client::ReadError> {
    let accounts = Folder::open(region, "visitors")?.open_map(region, "accounts")?;
    let mut sum = 0;
    for account in 0_u64.. {
        let Some(value) = accounts.get(region, account.to_string().as_bytes())? else { break };
        sum += String::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn count(region: &'static Region) -> Result<u64, client::ReadError> {
    Folder::open(region, "visitors")?.open_counter(region, "count")?.get(region)
}

/// Shuts every connection of this process down, as a broken machine might.
fn cut_connections() -> std::io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_socket, number) {
            let _ = shutdown(number, Shutdown::Both);
        }
    }
    Ok(())
}

/// What can be done with the descriptor of the region that comes with `access`.
fn probe(run_dir: &Path, access: &str) -> Answer {
    let channel = Channel::connect(&run_dir.join("control.sock"))?;
    let access = if access == "read" { Access::Read } else { Access::Write };
    channel.send(&control::encode(&Request::Attach(access))?, &[])?;
    let Received::Frame(frame, descriptors) = channel.receive()? else { return Err("no answer".into()) };
    let Some(region) = descriptors.into_iter().next().map(File::from) else {
        return Err(format!("{:?}", control::decode::<control::Response>(&frame)?).into());
    };
    let written = std::os::unix::fs::FileExt::write_at(&region, b"x", 4000);
    let path = format!("/proc/self/fd/{}", region.as_raw_fd());
    let opened = File::options().read(true).write(true).open(&path);
    let mapped = Region::attach(&region);
    let truncated = region.set_len(0);
    let can = |yes: bool| if yes { "can" } else { "cannot" };
    Ok(format!(
        "{} write, {} open, {} map, {} truncate",
        can(written.is_ok()),
        can(opened.is_ok()),
        can(mapped.is_ok()),
        can(truncated.is_ok())
    ))
}

/// So many threads, each with a session of its own at the same time as the others.
fn crowd(run_dir: &Path, count: usize) -> Answer {
    let together = std::sync::Barrier::new(count);
    let visit = || -> Result<(), String> {
        let session = Session::attach(run_dir).map_err(|error| error.to_string());
        together.wait();
        let mut session = session?;
        let added = session.change(add).map(drop).map_err(|error| error.to_string());
        added.and_then(|()| session.detach().map_err(|error| error.to_string()))
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(visit)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".to_owned())))
            .collect()
    });
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    Ok(format!("{} of {count} failed {}", failed.len(), failed.first().cloned().unwrap_or_default()))
}

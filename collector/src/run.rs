//! The program: a thread that distributes, threads that send for it, perhaps a device, and this one, which waits for
//! signals.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use common::error::{Context, Error, Result};
use common::journal::single::SingleWriter;
use common::journal::spool::Spool;
use common::sys::file::{self, Lock};
use common::sys::signal::SignalPipe;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::content;
use crate::device::{Device, Seal};
use crate::distribute::{Distributor, Lines, Pace};
use crate::ledger::Ledger;
use crate::logs::Logs;
use crate::sender::{Courier, Manner};

/// The option that names the spool.
pub const SPOOL_OPTION: &str = "--tmp-persist-dir";

/// Locked by who ships a spool.
const SHIPPER: &str = ".shipper";

/// How long one who was killed may take to be gone.
const FORMER_GONE: Duration = Duration::from_secs(10);

/// How often the log's age is looked at.
const LOG_ROUND: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug)]
pub struct Orders {
    /// The spool.
    pub directory: PathBuf,
    /// How files are sent.
    pub manner: Manner,
    /// How often, and how many.
    pub pace: Pace,
    /// How often the device makes a reading; `None` without a device.
    pub device: Option<RangeInclusive<Duration>>,
    /// Bound of the device's spool; 0 = by free space.
    pub limit: u64,
    /// Where the log goes.
    pub log_dir: Option<PathBuf>,
}

/// Runs until it is told to stop, or once.
///
/// # Errors
/// Why it could not begin; shipping once, what could not be delivered.
pub fn run(orders: &Orders) -> Result<()> {
    common::logging::init("data_collector");
    let spool = Spool::create_for(&orders.directory, SPOOL_OPTION)?;
    let _shipper = take_shipping(&spool, FORMER_GONE)?.ok_or_else(|| {
        Error::already_running(format!(
            "another data_collector ships {}; stop it, or choose another {SPOOL_OPTION}",
            orders.directory.display()
        ))
    })?;
    let signals = catch_signals()?;
    let device = match &orders.device {
        Some(interval) => {
            Some(Device::new(SingleWriter::take(again(&spool)?, orders.limit)?, interval.clone()))
        }
        None => None,
    };
    let logs = orders.log_dir.as_deref().map(Logs::open).transpose()?;
    log::info!("shipping {} to {}", orders.directory.display(), orders.manner.destination);

    let drains = Arc::new(AtomicBool::new(false));
    let (stop, stopped) = bounded(0);
    let device = device.map(|device| start_device(device, &stopped)).transpose()?;
    let (seal, device_thread) = device.unzip();
    let ended = start_distributor(&spool, orders, seal, (stopped, Arc::clone(&drains)))?;
    let stop = Stop { close: stop, drains: (!orders.pace.drain.is_zero()).then_some(drains) };
    let outcome = wait(&signals, &ended, logs.as_ref(), stop);
    // The distributor is gone, and with it whoever had minutes sealed; the device seals its last one.
    if let Some(thread) = device_thread {
        let _ = thread.join();
    }
    outcome
}

/// Takes the right to ship a spool; `None` where another has it.
///
/// # Errors
/// What open and flock report.
pub fn take_shipping(spool: &Spool, patience: Duration) -> Result<Option<File>> {
    let doing = || format!("cannot lock SPOOL/{SHIPPER}");
    let lock = spool.open_or_create_file(SHIPPER).context(doing)?;
    let mine = file::wait_for(patience, || file::try_lock(&lock, Lock::Exclusive)).context(doing)?;
    Ok(mine.then_some(lock))
}

fn again(spool: &Spool) -> Result<Spool> {
    let directory = spool.directory().try_clone().context(|| "cannot open the spool again".to_owned())?;
    Ok(Spool::from_directory(directory))
}

fn start_device(device: Device, stopped: &Receiver<()>) -> Result<(Sender<Seal>, thread::JoinHandle<()>)> {
    // Handed over, and not laid down: whoever asks a device that ends is told that it is gone.
    let (seal, orders) = bounded(0);
    let stopped = stopped.clone();
    let thread = spawn("device", move || device.work(&orders, &stopped))?;
    Ok((seal, thread))
}

/// How the distributor and the device are told to leave.
struct Stop {
    /// They wait for its end.
    close: Sender<()>,
    /// To be set before, if what is finished is to be shipped.
    drains: Option<Arc<AtomicBool>>,
}

impl Stop {
    /// TERM ships what is finished, where that is wanted; INT does not.
    fn tell(self, signal: Signal) {
        match self.drains {
            Some(drains) if signal == Signal::SIGTERM => {
                log::info!("stopping: what is finished is shipped, as long as it is taken");
                drains.store(true, SeqCst);
            }
            _ => log::info!("stopping: what is being sent is finished"),
        }
        drop(self.close);
    }
}

/// Gives where the distributor says how it ended.
fn start_distributor(
    spool: &Spool,
    orders: &Orders,
    device: Option<Sender<Seal>>,
    (stop, drains): (Receiver<()>, Arc<AtomicBool>),
) -> Result<Receiver<Result<()>>> {
    let doing = || "cannot begin to ship".to_owned();
    let spool_id = content::spool_id(spool).context(doing)?;
    let ledger = Ledger::open(spool).context(doing)?;
    let (jobs, work) = unbounded();
    let (results, reports) = unbounded();
    let courier = Arc::new(Courier::new(orders.manner.clone(), again(spool)?, spool_id).context(doing)?);
    for number in 0..orders.manner.parallel {
        let (courier, work, results) = (Arc::clone(&courier), work.clone(), results.clone());
        spawn(&format!("sender {number}"), move || courier.work(&work, &results))?;
    }
    let lines = Lines { jobs, reports, device, stop, drains };
    let distributor = Distributor::new(again(spool)?, ledger, lines, orders.pace);
    let (say, ended) = bounded(1);
    spawn("distributor", move || {
        let _ = say.send(distributor.work());
    })?;
    Ok(ended)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(body).context(|| format!("cannot start the thread {name:?}"))
}

fn catch_signals() -> Result<Receiver<Signal>> {
    let doing = || "cannot catch signals".to_owned();
    let pipe = SignalPipe::catching(&[Signal::SIGINT, Signal::SIGTERM]).context(doing)?;
    let (say, signals) = unbounded();
    spawn("signals", move || {
        loop {
            let mut fds = [PollFd::new(pipe.descriptor(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::NONE);
            // Of two that come together INT is the one in a hurry.
            if let Some(&signal) = pipe.take().first()
                && say.send(signal).is_err()
            {
                return;
            }
        }
    })?;
    Ok(signals)
}

/// Waits for the distributor's end. The first signal asks for it; the second one does not wait.
fn wait(
    signals: &Receiver<Signal>,
    ended: &Receiver<Result<()>>,
    logs: Option<&Logs>,
    stop: Stop,
) -> Result<()> {
    let mut stop = Some(stop);
    loop {
        crossbeam_channel::select! {
            recv(ended) -> outcome => {
                drop(stop);
                return outcome.unwrap_or_else(|_| Err(Error::failure("the distributor has failed")));
            }
            recv(signals) -> signal => match (stop.take(), signal) {
                (Some(stop), Ok(signal)) => stop.tell(signal),
                _ => return Err(Error::failure("stopped without waiting for what was being sent")),
            },
            default(LOG_ROUND) => if let Some(logs) = logs { logs.tend() },
        }
    }
}

//! A run from the first connection to the last line of the report.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::error::{Context, Error, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::check::{Findings, Spool};
use crate::cli::{Extent, Options};
use crate::descriptors;
use crate::distribution;
use crate::engine::{Engine, Job, Note};
use crate::plot;
use crate::progress::Progress;
use crate::report::{self, Summary};
use crate::request::Requests;
use crate::schedule::{Goal, Plan, Schedule};
use crate::socket::Peer;
use crate::tally::Tally;

/// In a run of fixed length a connection that cannot be made is tried again after this; without it, a server that is
/// down would be refused to all processors at once. A run of a fixed number of requests soon ends by itself.
const REST: Duration = Duration::from_millis(100);

/// How soon a signal is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Does what the command line asks for.
pub fn run(options: &Options) -> Result<()> {
    let connections = connections(options);
    descriptors::make_room(connections)?;
    let spool = options.check.as_deref().map(Spool::open).transpose()?;
    report::announce(options)?;
    let interrupted = catch_signals()?;
    let peers = options.address.resolve()?.into_iter().map(Peer::from).collect();
    let requests = Requests::new(options.message.clone())?.echoed(options.echo);

    let started = Instant::now();
    let job = Job {
        peers,
        requests,
        schedule: Schedule::new(
            goal(options.extent, started)?,
            options.rate.map(|rate| Plan { started, rate }),
        ),
        keep_alive: options.keep_alive,
        timeout: options.timeout,
        rest: if matches!(options.extent, Extent::Lasting(_)) { REST } else { Duration::ZERO },
        remember: spool.is_some(),
    };
    let tally = drive(&job, connections, options, &interrupted)?;
    let wall = started.elapsed();

    let findings = match (&spool, tally.acknowledged()) {
        (Some(spool), Some(acknowledged)) => {
            Some(spool.check(&job.requests, job.schedule.issued(), acknowledged)?)
        }
        _ => None,
    };
    let summary = Summary { tally: &tally, wall, findings: findings.as_ref() };
    report::print(options, &summary)?;
    if summary.refusal().is_none() {
        draw(options, &summary)?;
    }
    verdict(options, &summary, interrupted.load(Ordering::Relaxed))
}

/// Writes the files of latencies that were asked for.
fn draw(options: &Options, summary: &Summary<'_>) -> Result<()> {
    if let Some(path) = &options.hdr {
        distribution::write(path, summary.tally.latency())?;
    }
    if let Some(path) = &options.plot {
        plot::write(path, &report::title(options, summary), summary.tally.latency())?;
    }
    Ok(())
}

/// No more connections than there are requests.
fn connections(options: &Options) -> usize {
    match options.extent {
        Extent::Requests(requests) => usize::try_from(requests).unwrap_or(usize::MAX).min(options.threads),
        Extent::Lasting(_) => options.threads,
    }
}

fn goal(extent: Extent, started: Instant) -> Result<Goal> {
    match extent {
        Extent::Requests(requests) => Ok(Goal::Requests(requests)),
        Extent::Lasting(duration) => started
            .checked_add(duration)
            .map(Goal::Until)
            .ok_or_else(|| Error::usage("--duration is longer than the clock runs: give less")),
    }
}

/// The first INT or TERM ends the run early, with its report; a second one ends the program.
fn catch_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .context(|| format!("cannot catch signal {signal}"))?;
    }
    Ok(interrupted)
}

/// Runs the event threads and adds up what they counted.
fn drive(job: &Job, connections: usize, options: &Options, interrupted: &AtomicBool) -> Result<Tally> {
    let threads = options.event_threads.min(connections);
    let (sender, notes) = crossbeam_channel::unbounded();
    let progress = Progress::new(options.extent, options.quiet);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let share = connections / threads + usize::from(thread < connections % threads);
            let sender = &sender;
            std::thread::Builder::new()
                .name("events".to_owned())
                .spawn_scoped(scope, move || Engine::run(job, share, sender))
                .inspect_err(|_| job.schedule.stop())
                .context(|| "cannot start a thread".to_owned())?;
        }
        collect(job, threads, &notes, progress, interrupted)
    })
}

fn collect(
    job: &Job,
    threads: usize,
    notes: &Receiver<Note>,
    mut progress: Progress,
    interrupted: &AtomicBool,
) -> Result<Tally> {
    let mut total = Tally::new(job.remember)?;
    let mut running = threads;
    while running > 0 {
        match notes.recv_timeout(TICK) {
            Ok(Note::Progress(decided)) => progress.add(decided),
            Ok(Note::Done(tally)) => {
                total.merge(&(*tally)?)?;
                running -= 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::failure("an event thread ended without its results: run again"));
            }
        }
        if interrupted.load(Ordering::Relaxed) {
            job.schedule.stop();
        }
    }
    Ok(total)
}

/// The one sentence about what went wrong, if anything did.
fn verdict(options: &Options, summary: &Summary<'_>, interrupted: bool) -> Result<()> {
    let mut wrong = Vec::new();
    if let Some(why) = summary.refusal() {
        wrong.push(format!(
            "the run is not valid, the generator itself was saturated: {why}: use a lower --rate or more --event-threads, \
             or leave it a processor of its own"
        ));
    }
    let errors = summary.tally.errors();
    if let Some((failure, count)) = summary.tally.errors_by_kind().first() {
        let total = errors + summary.tally.handled;
        let (label, advice) = (failure.label(), failure.advice());
        let why = if *count == errors { label.to_owned() } else { format!("most often ({count}) {label}") };
        wrong.push(format!("{errors} of {total} requests to {} failed, {why}: {advice}", options.server));
    }
    if let Some(findings) = summary.findings.filter(|findings| !findings.is_clean()) {
        wrong.push(complaint(options, findings));
    }
    if interrupted {
        wrong.push("a signal ended the run before its time".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::failure(wrong.join("; "))) }
}

fn complaint(options: &Options, findings: &Findings) -> String {
    let spool = options.check.as_deref().unwrap_or_else(|| std::path::Path::new("")).display();
    format!(
        "the journal in {spool} does not match the replies, {} lost, {} duplicated, {} altered: keep its files and see \
         the report",
        findings.lost, findings.duplicated, findings.altered
    )
}

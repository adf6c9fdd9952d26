//! `supervisor status`, `stop`, `reload`, `upgrade`, `checkpoint`, `scale` and `exporter`: clients of a running instance. Counters and slots are read from
//! the region itself; only what the daemon alone knows is asked for.

use client::attach::{Attachment, CheckpointView, StatusView};
use client::document::{self, time};
use common::address::Address;
use common::error::{Error, Result};
use common::output;
use common::wire::control::{CrashReport, DaemonState, Request, Response};

use crate::cli::{Command, Instance};
use crate::config::run_dir;
use crate::showing;

/// Carries out a command.
///
/// # Errors
/// No instance (exit 1); a request that the instance refuses.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Status { instance, json, slots } => show(instance, *json, *slots),
        Command::Stop { instance, fast } => stop(instance, *fast),
        Command::Reload { instance } => ask(instance, Request::Reload),
        Command::Upgrade { instance } => ask(instance, Request::Upgrade),
        Command::Checkpoint { instance } => ask(instance, Request::Checkpoint),
        Command::Exporter { instance, metrics_listen } => export(instance, metrics_listen),
        Command::Scale { instance, workers } => ask(instance, Request::Scale(*workers)),
    }
}

fn connect(instance: &Instance) -> Result<Attachment> {
    match &instance.connect {
        Some(address) => Attachment::connect_to(address),
        None => Attachment::connect(&run_dir(instance)?),
    }
}

fn ask(instance: &Instance, request: Request) -> Result<()> {
    match connect(instance)?.request(request)? {
        Response::Done => Ok(()),
        Response::Refused(why) => Err(Error::failure(why)),
        _ => Err(Error::failure("the instance answered something else; is it of this version?")),
    }
}

fn export(instance: &Instance, metrics_listen: &[Address]) -> Result<()> {
    if instance.connect.is_some() {
        return Err(Error::usage("exporter --connect: it reads the region, so name the run directory"));
    }
    showing::become_exporter(&run_dir(instance)?, metrics_listen)
}

fn stop(instance: &Instance, fast: bool) -> Result<()> {
    let attachment = connect(instance)?;
    match attachment.request(Request::Stop { fast })? {
        Response::Done => attachment.wait_until_gone(),
        Response::Refused(why) => Err(Error::failure(why)),
        _ => Err(Error::failure("the instance refuses to stop; is it of this version?")),
    }
}

fn show(instance: &Instance, as_json: bool, with_slots: bool) -> Result<()> {
    let view = connect(instance)?.status()?;
    if as_json {
        output::print_line(&document::of(&view, with_slots, view.users()?).to_string())
    } else {
        output::print(&to_text(&view, with_slots)?)
    }
}

fn write_checkpoints(view: &StatusView, text: &mut String) {
    use std::fmt::Write as _;
    let Some(checkpoints) = view.checkpoints() else { return };
    let CheckpointView { number, taken_ns, bytes, pause_us, restored_ns, restored_from_ns, replayed } =
        checkpoints;
    let _ = match number {
        Some(number) => {
            let taken = time(taken_ns);
            writeln!(text, "checkpoint: {number} of {taken}, {bytes} bytes, pause {pause_us} µs")
        }
        None => writeln!(text, "checkpoint: none yet"),
    };
    if let Some(why) = &view.daemon.checkpoint_failing {
        let _ = writeln!(text, "no checkpoint was taken at the last attempt: {why}");
    }
    if let Some(restored) = restored_ns {
        let (at, from) = (time(restored), time(restored_from_ns));
        let _ = writeln!(
            text,
            "restored at {at} from a checkpoint of {from}, and {replayed} messages of the journal counted since"
        );
    }
    if let Some(why) = &view.daemon.restored {
        let _ = writeln!(text, "{why}");
    }
}

fn write_crash(crash: &CrashReport, text: &mut String) {
    use std::fmt::Write as _;
    let CrashReport { at_ns, owner, pid, ending, doing, .. } = crash;
    let ending = ending.as_deref().unwrap_or("without a farewell");
    let at = if doing.is_empty() { String::new() } else { format!("; it was at: {doing}") };
    let _ = writeln!(text, "last crash: {}, process {pid} in {owner}, {ending}{at}", time(*at_ns));
}

fn to_text(view: &StatusView, with_slots: bool) -> Result<String> {
    use std::fmt::Write as _;
    let users = view.users()?;
    let (daemon, workers, totals, spool) = (&view.daemon, view.workers(), view.totals(), view.spool());
    let state = match daemon.state {
        DaemonState::Starting => "starting",
        DaemonState::Running => "running",
        DaemonState::Degraded => "degraded",
        DaemonState::Draining => "draining",
    };
    let mut text = format!(
        "{state}: supervisor {}, template {} (generation {}), recovery {}\n",
        daemon.supervisor, daemon.template, daemon.generation, daemon.recovery
    );
    let _ = writeln!(text, "listening on {}", daemon.listen.join(", "));
    if !daemon.metrics.is_empty() {
        let _ = writeln!(text, "status and metrics on {}", daemon.metrics.join(", "));
    }
    let wanted = if daemon.at_least == daemon.configured {
        daemon.configured.to_string()
    } else {
        format!("{} to {}", daemon.at_least, daemon.configured)
    };
    let _ = writeln!(
        text,
        "workers: {wanted} wanted, {} live ({} idle, {} busy)",
        workers.idle + workers.busy,
        workers.idle,
        workers.busy
    );
    let _ = writeln!(
        text,
        "totals: {} connections, {} messages, {} bytes, {} errors, {} crashes, {} recoveries",
        totals.connections, totals.messages, totals.bytes, totals.errors, totals.crashes, totals.recoveries
    );
    let _ = writeln!(text, "attached: {} programs", view.attached());
    let took = daemon.recovery_us;
    let _ = writeln!(
        text,
        "recovery took: last {} µs, p50 {} µs, p99 {} µs, max {} µs",
        took.last, took.p50, took.p99, took.max
    );
    if let Some(crash) = daemon.crashes.first() {
        write_crash(crash, &mut text);
    }
    let limit = spool.limit.map_or_else(|| "by free space".to_owned(), |limit| format!("{limit} bytes"));
    let oldest = spool.oldest_minute.map_or_else(|| "none".to_owned(), |minute| minute.to_string());
    let _ = writeln!(text, "spool: {} bytes, limit {limit}, oldest minute {oldest}", spool.bytes);
    write_checkpoints(view, &mut text);
    if let Some(heap) = view.heap() {
        let _ = writeln!(text, "heap: {} of {} bytes taken", heap.used, heap.bytes);
    }
    for (user, sent) in users.users {
        let _ = writeln!(text, "user {user}: {} messages, {} bytes", sent.messages, sent.bytes);
    }
    if !users.complete {
        text.push_str(
            "some users cannot be read: a process that changes them is stopped, or this is asked from afar\n",
        );
    }
    if with_slots {
        let _ = writeln!(
            text,
            "{:>6} {:>10} {:>8} {:>9} {:>10} doing",
            "slot", "generation", "pid", "state", "messages"
        );
        for slot in view.slots() {
            let _ = writeln!(
                text,
                "{:>6} {:>10} {:>8} {:>9} {:>10} {}",
                slot.slot, slot.generation, slot.pid, slot.state, slot.messages, slot.doing
            );
        }
    }
    Ok(text)
}

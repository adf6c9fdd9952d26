//! What an instance is doing, as one JSON object: `supervisor status --json`, and `/status` of the exporter.

use common::slots::Totals;
use common::tally::UserTotals;
use common::wire::control::CrashReport;
use serde_json::{Value, json};

use crate::attach::{CheckpointView, StatusView};

/// The document. The users are read first: whatever is counted meanwhile is in the totals too, never in the users alone.
pub fn of(view: &StatusView, with_slots: bool, users: UserTotals) -> Value {
    let (daemon, workers, spool, heap) = (&view.daemon, view.workers(), view.spool(), view.heap());
    let Totals { connections, messages, bytes, errors, crashes, recoveries, requests, work_ns } =
        view.totals();
    let mut status = json!({
        "state": daemon.state,
        "supervisor_pid": daemon.supervisor,
        "template_pid": daemon.template,
        "recovery_pid": daemon.recovery,
        "generation": daemon.generation,
        "listen": daemon.listen,
        "metrics_listen": daemon.metrics,
        "workers": {
            "configured": daemon.configured,
            "live": workers.idle + workers.busy,
            "idle": workers.idle,
            "busy": workers.busy,
        },
        "attached": view.attached(),
        "totals": {
            "connections": connections,
            "messages": messages,
            "bytes": bytes,
            "errors": errors,
            "crashes": crashes,
            "recoveries": recoveries,
            "requests": requests,
            "work_us": work_ns / 1000,
        },
        "recovery_us": {
            "last": daemon.recovery_us.last,
            "p50": daemon.recovery_us.p50,
            "p99": daemon.recovery_us.p99,
            "max": daemon.recovery_us.max,
        },
        "last_crashes": daemon.crashes.iter().map(crash_json).collect::<Vec<_>>(),
        "checkpoint": view.checkpoints().map_or(Value::Null, |view| checkpoint_json(&view)),
        "checkpoint_failing": daemon.checkpoint_failing,
        "restored": view.checkpoints().map_or(Value::Null, |view| restored_json(&view)),
        "users_complete": users.complete,
        "users": users
            .users
            .into_iter()
            .map(|(user, sent)| (user, json!({ "messages": sent.messages, "bytes": sent.bytes })))
            .collect::<serde_json::Map<_, _>>(),
        "heap": heap.map(|heap| json!({ "bytes": heap.bytes, "used": heap.used })),
        "spool": { "bytes": spool.bytes, "limit": spool.limit, "oldest_minute": spool.oldest_minute },
    });
    if with_slots {
        status["slots"] = view
            .slots()
            .iter()
            .map(|slot| {
                json!({
                    "slot": slot.slot,
                    "generation": slot.generation,
                    "pid": slot.pid,
                    "state": slot.state,
                    "messages": slot.messages,
                    "doing": slot.doing,
                    "attached": slot.attached,
                })
            })
            .collect();
    }
    status
}

fn checkpoint_json(view: &CheckpointView) -> Value {
    let CheckpointView { number, taken_ns, bytes, pause_us, .. } = view;
    number.map_or(
        Value::Null,
        |number| json!({ "number": number, "taken": time(*taken_ns), "bytes": bytes, "pause_us": pause_us }),
    )
}

fn restored_json(view: &CheckpointView) -> Value {
    let CheckpointView { restored_ns, restored_from_ns, replayed, .. } = view;
    restored_ns.map_or(
        Value::Null,
        |restored| json!({ "at": time(restored), "from": time(*restored_from_ns), "replayed": replayed }),
    )
}

fn crash_json(report: &CrashReport) -> Value {
    let CrashReport { at_ns, owner, pid, ending, doing, repaired_us } = report;
    json!({
        "at": time(*at_ns),
        "slot": owner.slot,
        "generation": owner.generation,
        "pid": pid,
        "attached": ending.is_none(),
        "ending": ending,
        "doing": doing,
        "repaired_us": repaired_us,
    })
}

/// For people and for programs: RFC 3339, to the millisecond.
pub fn time(ns: u64) -> String {
    format!("{:.3}", jiff::Timestamp::from_nanosecond(ns.into()).unwrap_or_default())
}

//! The instance in numbers: OpenMetrics text. Counters are sums over all slots, used or free, as committed: they never go
//! down, whoever dies. What only the supervisor knows, and forgets when it ends, is no counter.

use std::fmt;

use client::attach::{CheckpointView, StatusView};
use common::slots::Totals;
use common::tally::UserTotals;
use common::wire::control::DaemonState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Users that are shown one by one, at most: each is a series of its own for whoever stores them.
const MOST_USERS: usize = 1000;

const STATES: [(DaemonState, &str); 4] = [
    (DaemonState::Starting, "starting"),
    (DaemonState::Running, "running"),
    (DaemonState::Degraded, "degraded"),
    (DaemonState::Draining, "draining"),
];

const SLOT_STATES: [&str; 5] = ["starting", "idle", "busy", "retiring", "dead"];

/// The text: of an instance that is up, or of the last that was.
pub fn text(view: Option<&StatusView>, users: &UserTotals, up: bool) -> String {
    let mut registry = Registry::with_prefix("holdfast");
    registry.register_collector(Box::new(Reading::of(view, users, up)));
    let mut out = String::new();
    if let Err(error) = text::encode(&mut out, &registry) {
        log::error!("the metrics cannot be written: {error}");
    }
    out
}

/// One number, or several that differ in one label.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Counter(u64),
    /// A counter too.
    Seconds(f64),
    Gauge(f64),
    Counters(&'static str, Vec<(String, u64)>),
    Gauges(&'static str, Vec<(String, f64)>),
    Info(Vec<(&'static str, String)>),
}

/// What was read.
#[derive(Debug, Default)]
struct Reading(Vec<Family>);

impl Reading {
    fn of(view: Option<&StatusView>, users: &UserTotals, up: bool) -> Self {
        let mut this = Self::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        this.add("exporter", "The exporter's version", None, Samples::Info(version));
        this.gauge("up", "Whether the supervisor answers", f64::from(u8::from(up)));
        let Some(view) = view else { return this };
        this.users(users);
        this.totals(&view.totals());
        if up {
            this.daemon(view);
        }
        this.pool(view);
        this.room(view);
        if let Some(checkpoints) = view.checkpoints() {
            this.checkpoints(&checkpoints);
        }
        this
    }

    fn add(&mut self, name: &'static str, help: &'static str, unit: Option<Unit>, samples: Samples) {
        self.0.push(Family { name, help, unit, samples });
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, None, Samples::Counter(value));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, None, Samples::Gauge(value));
    }

    fn bytes(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, Some(Unit::Bytes), Samples::Gauge(value as f64));
    }

    fn seconds(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, Some(Unit::Seconds), Samples::Gauge(value));
    }

    fn totals(&mut self, totals: &Totals) {
        let Totals { connections, messages, bytes, errors, crashes, recoveries, requests, work_ns } = *totals;
        self.counter("connections", "Connections accepted", connections);
        self.counter("messages", "Messages recorded", messages);
        self.add("message", "Bytes of recorded messages", Some(Unit::Bytes), Samples::Counter(bytes));
        self.counter("errors", "Requests answered by an error", errors);
        self.counter("requests", "Requests that were worked on, however they were answered", requests);
        let help = "Time of work on requests, from the whole request to the reply";
        self.add("work", help, Some(Unit::Seconds), Samples::Seconds(work_ns as f64 / 1e9));
        self.counter("crashes", "Deaths of workers and attached programs without a farewell", crashes);
        self.counter("recoveries", "Repairs of slots", recoveries);
    }

    fn users(&mut self, UserTotals { users, complete }: &UserTotals) {
        let shown = || users.iter().take(MOST_USERS);
        let messages = shown().map(|(user, sent)| (user.clone(), sent.messages)).collect();
        let bytes = shown().map(|(user, sent)| (user.clone(), sent.bytes)).collect();
        let help = "Messages recorded of each user (of the first thousand by name)";
        self.add("user_messages", help, None, Samples::Counters("user", messages));
        let help = "Bytes of messages recorded of each user, likewise";
        self.add("user_message", help, Some(Unit::Bytes), Samples::Counters("user", bytes));
        self.gauge("users", "Users that have a count", users.len() as f64);
        let help =
            "Whether every user's count is as of now: a process that is stopped can keep one from being read";
        self.gauge("users_complete", help, f64::from(u8::from(*complete)));
    }

    fn daemon(&mut self, view: &StatusView) {
        let daemon = &view.daemon;
        let is = |state| f64::from(u8::from(daemon.state == state));
        let states = STATES.iter().map(|(state, name)| ((*name).to_owned(), is(*state))).collect();
        self.add(
            "state",
            "What the instance is doing: 1 for the one that it is",
            None,
            Samples::Gauges("state", states),
        );
        self.gauge("workers_wanted", "Workers wanted; of a dynamic pool, at most", daemon.configured.into());
        self.gauge("workers_wanted_least", "Workers wanted at least", daemon.at_least.into());
        self.gauge(
            "template_generation",
            "Which template serves, counted from the supervisor's start",
            daemon.generation.into(),
        );
        let took = daemon.recovery_us;
        let quantiles = [("0.5", took.p50), ("0.99", took.p99), ("1", took.max)];
        let quantiles = quantiles.map(|(quantile, us)| (quantile.to_owned(), us as f64 / 1e6)).to_vec();
        let help = "From the knowledge of a death to the slot repaired, since the supervisor started";
        self.add("recovery_duration", help, Some(Unit::Seconds), Samples::Gauges("quantile", quantiles));
        self.seconds("last_recovery_duration", "How long the last repair took", took.last as f64 / 1e6);
    }

    fn pool(&mut self, view: &StatusView) {
        let slots = view.slots();
        let workers =
            |state: &str| slots.iter().filter(|slot| !slot.attached && slot.state == state).count() as f64;
        let counts = SLOT_STATES.iter().map(|state| ((*state).to_owned(), workers(state))).collect();
        self.add("workers", "Workers by what they are at", None, Samples::Gauges("state", counts));
        self.gauge("attached_programs", "Other programs that share the region", view.attached().into());
    }

    fn room(&mut self, view: &StatusView) {
        if let Some(heap) = view.heap() {
            self.bytes("heap", "Memory for objects", heap.bytes);
            self.bytes("heap_used", "Memory for objects that is taken", heap.used);
        }
        let spool = view.spool();
        self.bytes("spool", "The journal on the disk", spool.bytes);
        if let Some(limit) = spool.limit {
            self.bytes("spool_limit", "The journal's bound", limit);
        }
        if let Some(minute) = spool.oldest_minute {
            let help = "When the oldest minute of the journal began, since the epoch";
            self.seconds("spool_oldest_minute_timestamp", help, minute as f64 * 60.0);
        }
    }

    fn checkpoints(&mut self, view: &CheckpointView) {
        if view.number.is_some() {
            let help = "When the newest checkpoint was taken, since the epoch";
            self.seconds("checkpoint_timestamp", help, view.taken_ns as f64 / 1e9);
            self.bytes("checkpoint", "The newest checkpoint's file", view.bytes);
            let help = "For how long the newest checkpoint kept transactions from beginning";
            self.seconds("checkpoint_pause", help, view.pause_us as f64 / 1e6);
        }
        if let Some(restored) = view.restored_ns {
            let help = "When the region was restored from a checkpoint, since the epoch: counters began anew from it";
            self.seconds("restored_timestamp", help, restored as f64 / 1e9);
        }
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, unit, samples } in &self.0 {
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), samples.kind())?;
            match samples {
                Samples::Counter(value) => ConstCounter::new(*value).encode(metric)?,
                Samples::Seconds(value) => ConstCounter::new(*value).encode(metric)?,
                Samples::Gauge(value) => ConstGauge::new(*value).encode(metric)?,
                Samples::Counters(label, values) => {
                    for (named, value) in values {
                        let labels = [(*label, escaped(named))];
                        ConstCounter::new(*value).encode(metric.encode_family(&labels)?)?;
                    }
                }
                Samples::Gauges(label, values) => {
                    for (named, value) in values {
                        let labels = [(*label, escaped(named))];
                        ConstGauge::new(*value).encode(metric.encode_family(&labels)?)?;
                    }
                }
                Samples::Info(labels) => Info::new(labels.clone()).encode(metric)?,
            }
        }
        Ok(())
    }
}

impl Samples {
    fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Seconds(_) | Self::Counters(..) => MetricType::Counter,
            Self::Gauge(_) | Self::Gauges(..) => MetricType::Gauge,
            Self::Info(_) => MetricType::Info,
        }
    }
}

/// A label's value as it stands between quotation marks, which the library leaves to its users.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

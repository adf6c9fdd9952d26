//! What is printed: lines for people, or one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use common::error::{Error, Result};
use serde::Serialize;

use crate::check::Findings;
use crate::cli::Options;
use crate::pace::Pace;
use crate::tally::Tally;

/// Everything there is to say about a run.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    /// What was counted.
    pub tally: &'a Tally,
    /// From the first connection to the last reply.
    pub wall: Duration,
    /// What the journal held, if it was to be checked.
    pub findings: Option<&'a Findings>,
}

impl Summary<'_> {
    /// Why the latencies are not to be believed, if they are not.
    pub fn refusal(&self) -> Option<String> {
        self.tally.pace.as_ref().and_then(Pace::refusal)
    }
}

#[derive(Serialize)]
struct Json {
    requests: u64,
    errors: u64,
    wall_ms: u64,
    rate: f64,
    latency_us: Latency,
    errors_by_kind: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    pace: Option<JsonPace>,
    #[serde(flatten)]
    findings: Option<JsonFindings>,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// Of the open model.
#[derive(Serialize)]
struct JsonPace {
    /// Whether the generator kept up, so that the latencies are the server's.
    valid: bool,
    /// By how much requests left after their planned instants.
    slip_us: Slip,
    /// Requests that found no connection free at their planned instant.
    waited: u64,
    /// Requests that were to leave while the generator was held up, for 10 ms or more.
    late: u64,
    /// The share of its time for which the busiest event thread did not wait for events.
    busy: f64,
}

#[derive(Serialize)]
struct Slip {
    p50: u64,
    p99: u64,
    max: u64,
}

#[derive(Serialize)]
struct JsonFindings {
    lost: u64,
    duplicated: u64,
    altered: u64,
}

/// The first line, before anything can fail for want of a server.
pub fn announce(options: &Options) -> Result<()> {
    if options.json || options.quiet {
        return Ok(());
    }
    write_out(&format!("connecting to host:port {} with {} threads\n", options.server, options.threads))
}

/// The report.
pub fn print(options: &Options, summary: &Summary<'_>) -> Result<()> {
    if options.json {
        return write_out(&json(summary)?);
    }
    if options.quiet { Ok(()) } else { write_out(&text(summary)) }
}

/// All at once, and an error instead of a panic if nobody reads it.
fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|cause| {
        Error::failure(format!(
            "cannot write the report to standard output ({cause}): see where it was directed to"
        ))
    })
}

fn json(summary: &Summary<'_>) -> Result<String> {
    let tally = summary.tally;
    let micros = |quantile| microseconds(tally.quantile(quantile));
    let object = Json {
        requests: tally.handled,
        errors: tally.errors(),
        wall_ms: u64::try_from(summary.wall.as_millis()).unwrap_or(u64::MAX),
        rate: (rate(summary) * 10.0).round() / 10.0,
        latency_us: Latency {
            p50: micros(0.5),
            p90: micros(0.9),
            p99: micros(0.99),
            p999: micros(0.999),
            max: microseconds(tally.max()),
        },
        errors_by_kind: tally
            .errors_by_kind()
            .into_iter()
            .map(|(kind, count)| (kind.label(), count))
            .collect(),
        pace: tally.pace.as_ref().map(|pace| JsonPace {
            valid: pace.refusal().is_none(),
            slip_us: Slip {
                p50: microseconds(pace.slip(0.5)),
                p99: microseconds(pace.slip(0.99)),
                max: microseconds(pace.longest()),
            },
            waited: pace.waited(),
            late: pace.late(),
            busy: (pace.busiest() * 1000.0).round() / 1000.0,
        }),
        findings: summary.findings.map(|findings| JsonFindings {
            lost: findings.lost,
            duplicated: findings.duplicated,
            altered: findings.altered,
        }),
    };
    let line = serde_json::to_string(&object)
        .map_err(|cause| Error::failure(format!("cannot write the report as JSON: {cause}")))?;
    Ok(line + "\n")
}

fn text(summary: &Summary<'_>) -> String {
    let tally = summary.tally;
    let mut text = format!("handled {} requests\n", tally.handled);
    let wall = summary.wall.as_millis();
    let _ = writeln!(text, "wall time {wall} ms, {:.1} requests/s", rate(summary));
    if let Some(pace) = &tally.pace {
        text.push_str(&pace_text(pace));
    }
    if tally.handled > 0 && summary.refusal().is_none() {
        let quantile = |quantile| human(tally.quantile(quantile));
        let _ = writeln!(
            text,
            "latency p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            human(tally.max())
        );
    }
    let kinds = tally.errors_by_kind();
    if !kinds.is_empty() {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{} {count}", kind.label())).collect();
        let _ = writeln!(text, "errors {}: {}", tally.errors(), kinds.join(", "));
    }
    if let Some(findings) = summary.findings {
        let _ = write!(text, "{findings}");
    }
    text
}

fn pace_text(pace: &Pace) -> String {
    format!(
        "schedule slip p50 {}, p99 {}, max {}; {} waited for a free connection; generator busy {:.0} %\n",
        human(pace.slip(0.5)),
        human(pace.slip(0.99)),
        human(pace.longest()),
        pace.waited(),
        pace.busiest() * 100.0
    )
}

/// What a drawing of the latencies is called.
pub fn title(options: &Options, summary: &Summary<'_>) -> String {
    let connections = if options.keep_alive { "kept connections" } else { "connections at once" };
    let model = match options.rate {
        Some(rate) => format!("{rate} requests/s planned"),
        None => format!("{:.0} requests/s, as fast as they are answered", rate(summary)),
    };
    format!("{}, {model}, {} {connections}", options.server, options.threads)
}

fn rate(summary: &Summary<'_>) -> f64 {
    // Never a division by zero: a run takes longer than the clock's resolution.
    summary.tally.handled as f64 / summary.wall.max(Duration::from_nanos(1)).as_secs_f64()
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Three digits or so, in the unit that suits them.
fn human(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn tally() -> Tally {
        let mut tally = Tally::new(false).unwrap();
        tally.handled(0, Duration::from_micros(1500));
        tally.handled(1, Duration::from_micros(500));
        tally.failed(Failure::Refused);
        tally
    }

    #[test]
    fn for_people() {
        let tally = tally();
        let text = text(&Summary { tally: &tally, wall: Duration::from_millis(100), findings: None });
        assert_eq!(
            text,
            "handled 2 requests\nwall time 100 ms, 20.0 requests/s\n\
             latency p50 500 µs, p90 1.5 ms, p99 1.5 ms, p99.9 1.5 ms, max 1.5 ms\nerrors 1: connection refused 1\n"
        );
    }

    #[test]
    fn for_programs() {
        let tally = tally();
        let mut findings = Findings::default();
        findings.lost = 3;
        let mut summary = Summary { tally: &tally, wall: Duration::from_millis(100), findings: None };
        let expected = r#"{"requests":2,"errors":1,"wall_ms":100,"rate":20.0,"latency_us":{"p50":500,"p90":1500,"p99":1500,"p999":1500,"max":1500},"errors_by_kind":{"connection refused":1}"#;
        assert_eq!(json(&summary).unwrap(), format!("{expected}}}\n"));
        summary.findings = Some(&findings);
        assert_eq!(
            json(&summary).unwrap(),
            format!("{expected},\"lost\":3,\"duplicated\":0,\"altered\":0}}\n")
        );
    }
}

//! Instances that show themselves.

use common::address::Address;
use holdfast_tests::openmetrics::{self, Samples};
use holdfast_tests::outcome::Running;
use holdfast_tests::processes::{Process, children_of};
use holdfast_tests::{DEADLINE, Instance, Place, eventually, place, web};

/// With `--metrics-listen` on a port of the kernel's choice.
pub const SHOWN: [&str; 2] = ["--metrics-listen", "tcp:127.0.0.1:0"];

/// HOST:PORT of where the instance shows itself.
#[track_caller]
pub fn shown_at(instance: &Instance) -> String {
    let status = instance.status();
    let name = status["metrics_listen"][0].as_str().unwrap_or_else(|| panic!("nothing is shown: {status}"));
    host_and_port(name)
}

fn host_and_port(name: &str) -> String {
    match name.parse() {
        Ok(Address::Tcp { host, port }) => format!("{host}:{port}"),
        other => panic!("{name}: {other:?}"),
    }
}

/// The exporter that the instance started.
#[track_caller]
pub fn exporter_of(instance: &Instance) -> Process {
    eventually(DEADLINE, "there is an exporter", || {
        let children = children_of(instance.pid()).into_iter().filter_map(Process::of);
        children.into_iter().find(|process| process.name == "exporter").ok_or_else(|| instance.stderr())
    })
}

/// An exporter that was started by hand, and HOST:PORT of where it listens.
#[track_caller]
pub fn by_hand(place: &Place) -> (Running, String) {
    let mut command = place::program("exporter");
    command.arg("--run-dir").arg(place.run_dir()).args(SHOWN);
    let mut running = Running::start(&mut command);
    let line = eventually(DEADLINE, "it says where it listens", || {
        assert!(running.ended().is_none(), "{}", running.stderr());
        running.stdout().lines().next().map(str::to_owned).ok_or_else(String::new)
    });
    let at = line.rsplit_once("http://").unwrap_or_else(|| panic!("{line}")).1;
    (running, at.trim_end_matches('/').to_owned())
}

/// Prometheus' numbers.
#[track_caller]
pub fn scrape(address: &str) -> Samples {
    let text = web::get(address, "/metrics");
    openmetrics::read(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

/// Whether each counter is at least what it was.
#[track_caller]
pub fn assert_none_went_down(before: &Samples, after: &Samples) {
    for (series, was) in before.iter().filter(|(series, _)| series.contains("_total")) {
        let is = after.get(series).copied();
        assert!(is.is_some_and(|is| is >= *was), "{series} was {was} and is {is:?}");
    }
}

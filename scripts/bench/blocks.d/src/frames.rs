//! The example with pictures: 30 a second, 8 MB each, three who look at every one and check it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::table::{Table, Target};
use crate::{Effort, directory};

const RATE: f64 = 30.0;
const COUNT: u64 = 90;

pub fn run(table: &mut Table, _effort: Effort) {
    let directory = directory();
    let program =
        PathBuf::from(std::env::var_os("HOLDFAST_FRAMES").expect("scripts/bench/blocks says where it is"));
    let start = |side: &str, more: &[&str]| -> Child {
        let mut command = Command::new(&program);
        command.args([side, "camera", "--dir"]).arg(directory.path()).args(more);
        command.stdout(Stdio::piped()).spawn().expect("the example is built")
    };
    let mut producer = start("produce", &[]);
    while !directory.path().join("camera").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let count = COUNT.to_string();
    let consumers: Vec<Child> = (0..3).map(|_| start("consume", &["--count", &count])).collect();
    let mut rates = Vec::new();
    for consumer in consumers {
        let output = consumer.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().expect("a picture").to_owned();
        assert!(output.status.success(), "{last}");
        let words: Vec<&str> = last.split_whitespace().collect();
        // picture 90 is whole, 0 missed, 30.0 a second
        let missed: f64 = words[4].parse().expect("a number");
        rates.push(COUNT as f64 / (COUNT as f64 + missed));
    }
    let _ = producer.kill();
    let _ = producer.wait();
    let figures = format!("{RATE} a second, 8 MB, {COUNT} pictures");
    table.line("pictures that a consumer got", &figures, &rates, Target::AtLeast(0.98));
}

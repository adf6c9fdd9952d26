//! Everything at full speed, everybody killed at random, a server that misbehaves at random; in the end every record
//! that was generated has arrived, once after what was seen before is dropped, and whole.
//!
//! `HOLDFAST_SHIPPING_SECONDS` is how long it goes on, `HOLDFAST_SHIPPING_SEED` is the seed, instead of one by the clock;
//! `HOLDFAST_SHIPPING_SEEDS` is how many seeds have their turn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_tests::load::Load;
use holdfast_tests::outcome::Running;
use holdfast_tests::processes::{Process, children_of};
use holdfast_tests::random::Random;
use holdfast_tests::{Instance, Place, within};
use serde_json::Value;

use crate::backlog::{MOST_MEMORY_KIB, most_memory};
use crate::device::{check_readings, eager};
use crate::scene::{Account, Scene, Server, collector, names_in, seconds};

const CLIENTS: usize = 4;

/// The mean pause between two deeds.
const PAUSE: Duration = Duration::from_millis(400);

struct Stage {
    scene: Scene,
    place: Place,
    server: Server,
    instance: Option<Instance>,
    device: Option<Running>,
    random: Random,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let scene = Scene::new();
        let server = Server::start(&scene, &faults(seed));
        let mut stage = Self {
            scene,
            place: Place::new(),
            server,
            instance: None,
            device: None,
            random: Random::new(seed),
        };
        stage.start_instance();
        stage.start_device();
        stage
    }

    fn start_instance(&mut self) {
        let url = format!("http://localhost:{}/", self.server.port);
        let listen = format!("unix:{}", self.place.file("socket").display());
        let instance = self.place.instance().workers(8).region_size("8MiB").listen(&listen);
        self.instance = Some(instance.args(&["--collect", &url, "--collect-interval", "500ms"]).start());
    }

    fn start_device(&mut self) {
        self.device = Some(eager(&self.scene.spool(), self.server.port, &["--timeout", "1s"]));
    }

    fn children(&self, name: &str) -> Vec<Process> {
        let supervisor = self.instance.as_ref().map_or(0, Instance::pid);
        let all = children_of(supervisor).into_iter().filter_map(Process::of);
        all.filter(|process| process.name == name).collect()
    }

    fn kill_one(&mut self, name: &str) {
        let found = self.children(name);
        if !found.is_empty() {
            found[self.random.below(found.len() as u64) as usize].kill();
        }
    }

    #[track_caller]
    fn check_memory(&self) {
        let collectors = self.children("data_collector").into_iter().map(|process| process.pid);
        for pid in collectors.chain(self.device.as_ref().map(Running::pid)) {
            let most = most_memory(pid).unwrap_or(0);
            assert!(most < MOST_MEMORY_KIB, "a collector took {most} KiB");
        }
    }

    fn deed(&mut self) {
        match self.random.below(100) {
            0..25 => {
                if let Some(mut device) = self.device.take() {
                    device.kill();
                    device.finish().assert_no_panic();
                }
                self.start_device();
            }
            25..50 => self.kill_one("data_collector"),
            50..70 => self.kill_one("worker"),
            70..76 => self.kill_one("recovery"),
            76..90 => {
                let seed = self.random.word();
                self.server.restart(&faults(seed));
            }
            90..95 => {
                // Away for a while.
                self.server.kill();
                std::thread::sleep(PAUSE);
                let seed = self.random.word();
                self.server.restart(&faults(seed));
            }
            _ => {
                if let Some(instance) = self.instance.take() {
                    instance.kill9().assert_no_panic();
                }
                self.start_instance();
            }
        }
    }

    /// Everybody stops; what is left is shipped to a server that behaves.
    #[track_caller]
    fn end(mut self, load: Load) -> End {
        load.wait_for_more(100);
        let ledger = load.stop();
        if let Some(instance) = self.instance.take() {
            instance.stop();
        }
        if let Some(device) = self.device.take() {
            crate::scene::terminate(device);
        }
        self.server.restart(&[]);
        for spool in [self.scene.spool(), self.place.spool_dir()] {
            let mut rest = Running::start(collector(&spool, self.server.port).arg("--once"));
            rest.finish_within(Duration::from_secs(300)).assert_succeeded();
            let left: Vec<_> = names_in(&spool).into_iter().filter(|name| name.contains(".dat")).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        self.place.no_process_left();
        let (readings, messages) =
            self.server.lines().into_iter().partition(|(line, _)| line.contains("\"user\":\"device\""));
        End { readings, messages, acknowledged: ledger.acknowledged, sent: ledger.sent, stage: self }
    }
}

/// What has arrived, and what was sent.
struct End {
    readings: BTreeMap<String, u64>,
    messages: BTreeMap<String, u64>,
    acknowledged: BTreeSet<String>,
    sent: BTreeSet<String>,
    stage: Stage,
}

impl End {
    #[track_caller]
    fn check(&self) {
        let readings = check_readings(&self.readings);
        let (mut arrived, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for (line, times) in &self.messages {
            assert_eq!(*times, 1, "it came so often: {line:.200}");
            let value: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:.200}"));
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            assert!(ids.insert(text("id")), "two records have the id {}", text("id"));
            assert!(self.sent.contains(&text("message")), "nobody sent this: {line:.200}");
            assert!(arrived.insert(text("message")), "it was recorded twice: {line:.200}");
        }
        let lost: Vec<_> = self.acknowledged.difference(&arrived).collect();
        assert!(lost.is_empty(), "{} acknowledged messages never arrived", lost.len());
        self.account(&self.stage.scene.spool(), readings);
        self.account(&self.stage.place.spool_dir(), self.messages.len() as u64);
        eprintln!("{readings} readings and {} messages arrived", self.messages.len());
    }

    #[track_caller]
    fn account(&self, spool: &Path, arrived: u64) {
        let expected = Account { generated: arrived, delivered: arrived, pending: 0, quarantined: 0 };
        assert_eq!(Account::of(spool), expected);
    }
}

/// A server that misbehaves, by a seed.
fn faults(seed: u64) -> [&'static str; 4] {
    // Leaked: a few bytes for each start of a server.
    ["--chance", "25", "--seed", Box::leak(seed.to_string().into_boxed_str())]
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let named = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let first = named("HOLDFAST_SHIPPING_SEED").unwrap_or_else(holdfast_tests::random::by_clock);
    for seed in (first..).take(named("HOLDFAST_SHIPPING_SEEDS").unwrap_or(1) as usize) {
        eprintln!("shipping chaos: HOLDFAST_SHIPPING_SEED={seed}");
        play(seed);
    }
}

#[track_caller]
fn play(seed: u64) {
    let mut stage = Stage::new(seed);
    // Short messages: they are all kept until the end.
    let say = |client: usize, number: u64| ("arijort".to_owned(), format!("load {client} {number}"));
    let load = Load::saying(&stage.instance.as_ref().expect("it was started").listen[0], CLIENTS, say);
    let until = Instant::now() + seconds("HOLDFAST_SHIPPING_SECONDS", 60);
    while Instant::now() < until {
        let pause = PAUSE.mul_f64(stage.random.below(200) as f64 / 100.0);
        let goal = load.answered() + stage.random.below(2000);
        let _ = within(pause, || if load.answered() >= goal { Ok(()) } else { Err(String::new()) });
        stage.check_memory();
        stage.deed();
    }
    stage.end(load).check();
}

//! Chaos: everything is killed, stopped and continued at random while clients send; at the end the books agree.
//!
//! What happens is a function of the seed, which is printed: what is done to whom, after how many answers, and what the
//! clients say. At which instruction it meets them is not: a seed that failed may have to be run more than once.
//!
//! `HOLDFAST_CHAOS_SEED` is the seed, instead of one by the clock; `HOLDFAST_CHAOS_STEPS` is how many things happen,
//! instead of a few; `HOLDFAST_CHAOS_SEEDS` is how many seeds have their turn, each the successor of the one before.

mod bank;
mod books;
mod post;
mod script;
mod stage;
mod visitors;

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use common::region::Region;
use holdfast_tests::journal::Record;
use holdfast_tests::load::Load;
use holdfast_tests::place::Starting;
use holdfast_tests::random::Random;
use holdfast_tests::{Place, programs};

use crate::stage::Stage;

const WORKERS: u32 = 8;
const CLIENTS: usize = 6;
const STEPS: u64 = 80;

/// More than have rows of their own, so that some share maps.
const USERS: u64 = 100;

/// How often checkpoints are taken.
const CHECKPOINTS: [&str; 3] = ["5ms", "50ms", "500ms"];

/// Bounds of a message's padding: most are short, some make a record of several pages.
const PADDING: [u64; 5] = [8, 8, 30, 300, 6000];

#[test]
fn the_line_service_loses_nothing() {
    for seed in seeds() {
        announce("line service", seed);
        let place = Place::new();
        let names: String = (0..USERS).map(|user| format!("{}\n", user_name(user))).collect();
        let users = place.write("users", &names);
        let starting = || starting(&place, seed).arg("--users").arg(&users);
        play(&place, seed, starting, say, |_, _| {});
    }
}

#[test]
fn what_the_bank_holds_is_what_its_journal_says() {
    for seed in seeds() {
        announce("bank", seed);
        let place = Place::new();
        let starting = || starting(&place, seed).arg("--worker").arg(programs::bank());
        play(&place, seed, starting, bank::say, bank::check);
    }
}

#[test]
fn what_the_post_office_holds_is_what_its_journal_says() {
    for seed in seeds() {
        announce("post office", seed);
        let place = Place::new();
        let starting = || starting(&place, seed).arg("--worker").arg(programs::post());
        play(&place, seed, starting, post::say, post::check);
    }
}

/// Plays a seed's script under load, and holds what is left of it against what was acknowledged.
#[track_caller]
fn play(
    place: &Place,
    seed: u64,
    starting: impl Fn() -> Starting,
    say: fn(&mut Random, &str) -> String,
    check: fn(&Region, &[Record]),
) {
    let mut stage = Stage::new(place.run_dir(), &starting);
    let load = Load::saying(&stage.instance().listen[0], CLIENTS, move |client, number| {
        let mut random = Random::new(seed ^ (client as u64 + 1) << 40 ^ number);
        (user_name(random.below(USERS)), say(&mut random, &format!("by {client}, {number}")))
    });
    for step in script::of(seed).take(variable("HOLDFAST_CHAOS_STEPS").unwrap_or(STEPS) as usize) {
        stage.play(step, &load);
    }
    stage.calm_down(&load);
    let ledger = load.stop();
    let instance = stage.end();
    let records = books::check(place, &instance, &ledger);
    let region = books::region(place);
    check(&region, &records);
    visitors::check(&region);
    // Stopped or killed: then the last checkpoint is of some moment before.
    if seed.is_multiple_of(2) {
        instance.stop();
        books::check_what_is_left(place, &records);
    } else {
        instance.kill9().assert_no_panic();
    }
    books::check_after_loss_of_memory(place, starting(), &records);
}

/// A message of the line service; the note makes it unlike any other.
fn say(random: &mut Random, note: &str) -> String {
    let bound = PADDING[random.below(PADDING.len() as u64) as usize];
    format!("{note} {}", "x".repeat(random.below(bound) as usize))
}

fn user_name(number: u64) -> String {
    format!("user {number}")
}

/// What differs from seed to seed beside the script. The first address is the same for every supervisor of a place.
fn starting(place: &Place, seed: u64) -> Starting {
    let mut random = Random::new(!seed);
    let mut starting = place.instance().workers(WORKERS).region_size("8MiB");
    // So often that one is being taken most of the time.
    starting = starting.args(&["--checkpoint-interval", CHECKPOINTS[random.below(3) as usize]]);
    starting = starting.listen(&format!("unix:{}", place.file("socket").display()));
    // Workers wait otherwise on one socket than on several.
    if random.below(2) == 0 {
        starting = starting.listen("tcp:127.0.0.1:0");
    }
    if random.below(4) == 0 {
        starting = starting.args(&["--recovery", "spawn"]);
    }
    if random.below(4) == 0 {
        starting = starting.args(&["--sync", "always"]);
    }
    starting
}

fn seeds() -> impl Iterator<Item = u64> {
    let clock =
        || SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_nanos() as u64;
    let first = variable("HOLDFAST_CHAOS_SEED").unwrap_or_else(clock);
    (0..variable("HOLDFAST_CHAOS_SEEDS").unwrap_or(1)).map(move |number| first.wrapping_add(number))
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Also where the output of tests that pass is not shown.
fn announce(what: &str, seed: u64) {
    let _ = writeln!(std::io::stderr(), "chaos, {what}: HOLDFAST_CHAOS_SEED={seed}");
}

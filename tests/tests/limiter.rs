//! The rate limiter of the tour (`worker/examples/limiter.rs`), served by several workers that die.

use std::time::{Duration, Instant};

use holdfast_tests::{Connection, Instance, Place, programs, until};

/// Asks until the answer is this: a worker may have died just now.
#[track_caller]
fn asked(instance: &Instance, line: &str, answer: &str) {
    until(&format!("{line:?} is answered with {answer:?}"), || {
        let Ok(mut connection) = Connection::try_to(&instance.listen[0]) else { return false };
        connection.try_send(format!("{line}\n").as_bytes()).is_ok()
            && connection.try_line().ok().flatten().is_some_and(|line| line == answer)
    });
}

#[test]
fn a_limit_holds_for_all_workers_together_and_outlives_them() {
    let place = Place::new();
    let limiter = programs::limiter();
    let instance = place.instance().workers(4).arg("--worker").arg(&limiter).start();
    asked(&instance, "rule 2", "rule 2");
    // A window may end between two messages: what counts is that there is one with two answers and no third.
    let deadline = Instant::now() + Duration::from_secs(60);
    let refusal = loop {
        assert!(Instant::now() < deadline, "nothing is ever refused");
        let answers: Vec<_> =
            (0..3).map(|number| instance.connect().ask(&format!("zoe:{number}\n"))).collect();
        if let Some(refusal) = answers.into_iter().find(|answer| answer.starts_with("error busy: ")) {
            break refusal;
        }
    };
    assert!(refusal.contains("2 messages in 10 s"), "{refusal}");
    let refused: u64 = instance.connect().ask("refused\n").parse().expect("a number");
    assert!(refused >= 1);
    for pid in instance.worker_pids() {
        instance.kill_child(pid);
    }
    asked(&instance, "refused", &refused.to_string());
    asked(&instance, "next", "zoe");
    // Whoever waits for the next refusal is answered when there is one.
    while instance.connect().ask("next\n") != "nobody" {}
    let mut waiting = instance.connect();
    waiting.send("next\n");
    asked(&instance, "rule 0", "rule 0");
    assert!(instance.connect().ask("bert:hello\n").starts_with("error busy: "));
    let answer = waiting.line();
    // It may have waited its second before.
    let answer = if answer == "nobody" { instance.connect().ask("next\n") } else { answer };
    assert_eq!(answer, "bert");
    instance.books_agree();
    instance.stop().assert_no_panic();
}

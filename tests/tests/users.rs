//! What each user has sent: counted without a shared lock for the first users, under shared ones for those beyond, and
//! kept whoever dies.

use holdfast_tests::{Connection, Instance, Place};

/// Lines that go out before the first answer is read: they and their answers fit into the sockets' buffers.
const BATCH: usize = 50;

fn names(count: usize, padding: usize) -> Vec<String> {
    (0..count).map(|number| format!("user-{number}-{}", "x".repeat(padding))).collect()
}

fn users_file(place: &Place, names: &[String]) -> std::path::PathBuf {
    place.write("users", &(names.join("\n") + "\n"))
}

/// Sends a message of each user, and gives the answers.
fn one_of_each(connection: &mut Connection, names: &[String]) -> Vec<String> {
    let mut answers = Vec::new();
    for batch in names.chunks(BATCH) {
        batch.iter().for_each(|name| connection.send(format!("{name}:a message of {name:.9}\n")));
        answers.extend(batch.iter().map(|_| connection.line()));
    }
    answers
}

fn kill_a_worker(instance: &Instance) {
    let pid = instance.workers_that_are(&["idle"])[0];
    instance.kill_child(pid);
}

#[test]
fn users_with_a_row_and_without_are_counted_alike_over_deaths() {
    let place = Place::new();
    let names = names(200, 0);
    let users = users_file(&place, &names);
    let instance = place.instance().workers(4).arg("--users").arg(&users).start();
    for _ in 0..3 {
        let answers = one_of_each(&mut instance.connect(), &names);
        assert!(answers.iter().all(|answer| answer.contains("recvd message")), "{answers:?}");
        kill_a_worker(&instance);
        instance.books_agree();
    }
    assert_eq!(instance.status()["users"][&names[150]]["messages"], 3);
    instance.kill9();

    let instance = place.instance().workers(4).arg("--users").arg(&users).start();
    assert_eq!(instance.status()["users"].as_object().map(serde_json::Map::len), Some(200));
    one_of_each(&mut instance.connect(), &names[..100]);
    assert_eq!(instance.books_agree().len(), 700);
    let text = instance.command("status", &[]);
    assert!(text.stdout.contains("user user-3-: 4 messages"), "{text}");
    instance.stop();
}

#[test]
fn a_heap_without_room_for_another_user_refuses_that_user_and_no_other() {
    let place = Place::new();
    let names = names(6000, 240);
    let users = users_file(&place, &names);
    let instance = place.instance().workers(2).region_size("2MiB").arg("--users").arg(&users).start();
    let mut connection = instance.connect();
    let answers = one_of_each(&mut connection, &names);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.starts_with("error ")).collect();
    assert!(!refused.is_empty() && refused.len() < 5500, "{} refused", refused.len());
    assert!(refused.iter().all(|answer| answer.starts_with("error full: ")), "{}", refused[0]);
    let again = one_of_each(&mut connection, &names[..200]);
    assert!(again.iter().all(|answer| answer.contains("recvd message")));
    drop(connection);
    let records = instance.books_agree();
    assert_eq!(records.len(), 6200 - refused.len());
    let heap = instance.status()["heap"].clone();
    assert!(heap["used"].as_u64() > Some(0) && heap["used"].as_u64() <= heap["bytes"].as_u64(), "{heap}");
    instance.stop();
}

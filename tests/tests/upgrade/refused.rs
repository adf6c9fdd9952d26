//! Programs that cannot take over: nothing happens. And what happens where one finds that out too late.

use std::os::unix::fs::{FileExt as _, PermissionsExt};

use holdfast_tests::processes::children_of;
use holdfast_tests::{Connection, Instance, Place, machine, until};
use nix::sys::signal::Signal;

use crate::scene::{DONE, Programs, REFUSED, program_of, upgrade, usr2_until};

/// Where a region's format version stands in its file.
const VERSION_AT: u64 = 8;

#[track_caller]
fn is_refused(instance: &Instance, why: &str) {
    let (children, program) = (children_of(instance.pid()), program_of(instance.pid()));
    usr2_until(instance, REFUSED);
    let log = instance.stderr();
    let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
    assert!(line.contains(why), "{line}");
    instance.say("as ever");
    let status = instance.status();
    assert_eq!((&status["supervisor_pid"], &status["state"]), (&instance.pid().into(), &"running".into()));
    assert_eq!(children_of(instance.pid()), children);
    let now = program_of(instance.pid());
    assert_eq!(
        now.to_string_lossy().trim_end_matches(" (deleted)"),
        program.to_string_lossy().trim_end_matches(" (deleted)")
    );
}

#[test]
fn broken_programs_leave_the_old_one_serving() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    for (script, why) in [
        ("#!/bin/sh\nexit 1", "it exited with 1"),
        ("#!/bin/sh\necho supervisor: it is raining >&2\nexit 3", "goes on: it is raining"),
        ("#!/bin/sh\nexit 0", "it does not know how to"),
        ("#!/bin/sh\nkill -SEGV $$", "killed by SIGSEGV"),
        ("#!/nowhere/sh\nexit 0", "cannot run"),
        ("exit 0", "it is not a program"),
        ("", "it is not a program"),
    ] {
        programs.replace_by(script);
        is_refused(&instance, why);
    }
    let path = programs.supervisor();
    programs.renew();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    is_refused(&instance, "Permission denied");
    std::fs::remove_file(&path).unwrap();
    is_refused(&instance, "No such file");
    std::fs::create_dir(&path).unwrap();
    is_refused(&instance, "cannot use");
    std::fs::remove_dir(&path).unwrap();
    // Whatever came before: a good one takes over.
    programs.renew();
    usr2_until(&instance, DONE);
    assert_eq!(program_of(instance.pid()), path);
    instance.stop();
}

#[test]
fn one_that_hangs_is_not_waited_for() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    programs.replace_by("#!/bin/sh\nexec sleep 1000");
    is_refused(&instance, "did not say whether it can");
    instance.stop();
    place.no_process_left();
}

#[test]
fn a_configuration_that_is_not_sound_any_more_is_a_reason() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let config = place.write("config.toml", "grace = \"1s\"\n");
    let instance = programs.instance(&place).arg("--config").arg(&config).start();
    place.write("config.toml", "grace = \"long\"\n");
    is_refused(&instance, "grace");
    place.write("config.toml", "grace = \"2s\"\n");
    usr2_until(&instance, DONE);
    instance.stop();
}

#[test]
fn a_region_of_another_format_is_refused_before_anything_stops() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    // As a program of another version would see it. Nobody else looks at these bytes while nobody starts.
    let region = std::fs::File::options().read(true).write(true).open(place.region()).unwrap();
    let mut version = [0; 4];
    region.read_exact_at(&mut version, VERSION_AT).unwrap();
    region.write_all_at(&99_u32.to_ne_bytes(), VERSION_AT).unwrap();
    usr2_until(&instance, REFUSED);
    region.write_all_at(&version, VERSION_AT).unwrap();
    let log = instance.stderr();
    let line = log.lines().rfind(|line| line.contains(REFUSED)).unwrap();
    assert!(line.contains("its format version is 99"), "{line}");
    instance.say("as ever");
    upgrade_after_all(&instance);
    instance.stop();
}

#[track_caller]
fn upgrade_after_all(instance: &Instance) {
    usr2_until(instance, DONE);
    instance.say("and after");
}

#[test]
fn one_that_could_and_then_cannot_be_executed_is_refused_too() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    let real = programs.real();
    programs.replace_by(&format!("#!/bin/sh\nchmod a-x \"$0\"\nexec {real} \"$@\""));
    is_refused(&instance, "cannot execute");
    // Everything that it had let go of it has again.
    instance.kill_child(instance.worker_pids()[0]);
    instance.wait_for_rest();
    programs.renew();
    upgrade_after_all(&instance);
    instance.stop();
}

#[test]
fn one_that_is_replaced_after_it_was_asked_is_asked_again() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    let real = programs.real();
    programs
        .replace_by(&format!("#!/bin/sh\ncp \"$0\" \"$0.next\"\nmv \"$0.next\" \"$0\"\nexec {real} \"$@\""));
    is_refused(&instance, "another file each time");
    assert_eq!(instance.stderr().matches("whether it can take over").count(), 3);
    instance.stop();
}

#[test]
fn an_instance_that_stops_is_not_taken_over() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).args(&["--grace", "60s"]).start();
    let mut connection = instance.connect();
    connection.say("arijort", "one");
    instance.signal(Signal::SIGTERM);
    instance.wait_for_log("draining");
    usr2_until(&instance, "no other program takes over");
    drop(connection);
    instance.finish().assert_succeeded();
}

/// What is handed over is broken on the way, behind the back of a program that could have gone on.
#[test]
fn what_is_broken_on_the_way_begins_anew_and_keeps_who_waits() {
    for broken in ["/dev/null", "half"] {
        let place = Place::new();
        let programs = Programs::of(&place);
        let address = format!("tcp:127.0.0.1:{}", machine::free_port());
        let starting = programs.instance(&place).listen(&address).args(&["--read-timeout", "60s"]);
        let instance = starting.start();
        let mut visitor = holdfast_tests::Visitor::attached(&place.run_dir());
        visitor.must("open 8", "opened");
        for _ in 0..10 {
            instance.say("before");
        }
        let before = children_of(instance.pid());
        let half = place.write("half", "holdfast handover 1, frames 1\n{\"version\":\"1\",");
        let broken = if broken == "half" { half.to_str().unwrap() } else { broken };
        let script = format!(
            "#!/bin/bash\nwords=($HOLDFAST_HANDOVER)\n\
             if [ \"${{words[1]}}\" = go-on ]; then eval \"exec ${{words[2]}}<{broken}\"; fi\n\
             exec {} \"$@\"",
            programs.supervisor().with_file_name("real").display()
        );
        std::os::unix::fs::symlink(
            holdfast_tests::programs::path("supervisor"),
            programs.supervisor().with_file_name("real"),
        )
        .unwrap();
        programs.replace_by(&script);
        instance.signal(Signal::SIGUSR2);
        instance.wait_for_log("starts everything anew");
        // Whoever is served by one of the former workers at that moment is cut off.
        until("the former children are gone", || {
            let after = children_of(instance.pid());
            before.iter().all(|pid| !after.contains(pid))
        });
        // Somebody who comes in between waits.
        let mut waiting = Connection::to(&address);
        waiting.say("arijort", "in between");
        assert_eq!(instance.status()["supervisor_pid"], instance.pid());
        // Programs that were attached find the way back by themselves.
        visitor.must("transfer 0 1 7", "done");
        instance.wait_for_status("it is attached again", |status| status["attached"] == 1);
        visitor.must("detach", "detached");
        drop((visitor, waiting));
        assert_eq!(instance.books_agree().len(), 11);
        // And now that it is whole, it can be taken over again.
        upgrade(&instance);
        instance.say("after");
        instance.stop();
        place.no_process_left();
    }
}

#[test]
fn a_summons_for_somebody_else_means_nothing() {
    let place = Place::new();
    for words in ["1 go-on 0 - ", "1 answer 0 - ", "1 start-anew , - ", "nonsense", ""] {
        let instance = place.instance().env("HOLDFAST_HANDOVER", words).start();
        instance.say(words);
        instance.stop();
    }
}

//! A full disk: whoever writes is told, nothing is lost, and what is delivered makes room by itself.

use std::path::Path;
use std::time::Duration;

use holdfast_tests::machine::{is_root, mount_small, skip, with_private_mounts};
use holdfast_tests::outcome::Running;
use holdfast_tests::{DEADLINE, Place, eventually, within};

use crate::device::check_readings;
use crate::scene::{Account, Scene, Server, names_in, terminate, wait_for_log};

const SIZE: u64 = 2 << 20;

fn on_a_small_disk(test: &str, body: impl FnOnce() + Send + 'static) {
    if !is_root() {
        return skip(test, "only the superuser can mount a small file system");
    }
    if let Err(why) = with_private_mounts(body) {
        skip(test, &why);
    }
}

/// A device with the disk to itself, which it may fill to the last byte.
fn greedy(spool: &Path, server: &Server) -> Running {
    crate::device::eager(
        spool,
        server.port,
        &["--device-interval=0..0", "--spool-limit=1GiB", "--timeout=1s"],
    )
}

#[test]
fn a_device_that_has_filled_its_disk_goes_on_when_its_readings_are_delivered() {
    on_a_small_disk("a device that has filled its disk", || {
        let scene = Scene::new();
        let _mounted = mount_small(&scene.spool(), SIZE);
        let mut server = Server::absent(&scene);
        let mut first = greedy(&scene.spool(), &server);
        wait_for_log(&first, "cannot be written and waits");
        first.kill();
        first.finish().assert_no_panic();
        // The next one begins on a full disk, and is killed on it too.
        let mut second = greedy(&scene.spool(), &server);
        wait_for_log(&second, "cannot be written and waits");
        second.kill();
        second.finish().assert_no_panic();
        let pending = Account::of(&scene.spool()).pending;
        assert!(pending > 1000, "{pending}");
        let third = greedy(&scene.spool(), &server);
        server.restart(&["--chance", "10"]);
        wait_for_log(&third, "there is room again");
        eventually(DEADLINE, "more is delivered than the disk holds", || {
            let account = Account::of(&scene.spool());
            if account.delivered > 2 * pending {
                Ok(())
            } else {
                Err(format!("{account:?}\n{}", third.stderr()))
            }
        });
        terminate(third);
        server.restart(&[]);
        scene.ship_once(&server, &[]).assert_succeeded();
        assert_eq!(check_readings(&server.lines()), scene.account().delivered);
        assert!(scene.is_empty());
    });
}

#[test]
fn a_disk_that_is_full_before_anything_begins_is_emptied() {
    on_a_small_disk("a disk that is full before", || {
        let scene = Scene::new();
        let _mounted = mount_small(&scene.spool(), SIZE);
        let server = Server::start(&scene, &[]);
        let mut minute = 1;
        // Until not even an empty page is left.
        while std::fs::write(scene.spool().join(format!("{minute}.dat")), "x\n".repeat(2048)).is_ok() {
            minute += 1;
        }
        std::fs::remove_file(scene.spool().join(format!("{minute}.dat"))).unwrap();
        while std::fs::write(scene.spool().join(format!("{minute}.dat")), "y\n").is_ok() {
            minute += 1;
        }
        let _ = std::fs::remove_file(scene.spool().join(format!("{minute}.dat")));
        let outcome = scene.ship_once(&server, &[]);
        outcome.assert_succeeded();
        assert!(names_in(&scene.spool()).is_empty());
        assert_eq!(server.kept().len() as u64, minute - 1);
        assert_eq!(scene.account().generated, scene.account().delivered);
    });
}

#[test]
fn clients_are_told_that_the_disk_is_full_and_served_again_once_files_are_delivered() {
    on_a_small_disk("clients are told that the disk is full", || {
        let place = Place::new();
        let scene = Scene::new();
        let _mounted = mount_small(&place.spool_dir(), SIZE);
        let mut server = Server::absent(&scene);
        let url = format!("http://localhost:{}/", server.port);
        let instance = place
            .instance()
            .args(&["--spool-limit", "1GiB", "--collect", &url, "--collect-interval", "500ms"])
            .start();
        let message = "m".repeat(20_000);
        let mut said = 0;
        let full = loop {
            let mut connection = instance.connect();
            connection.try_send(format!("arijort:{said} {message}\n").as_bytes()).unwrap();
            match connection.try_line().unwrap() {
                Some(line) if line.starts_with("error ") => break line,
                Some(_) => said += 1,
                None => {}
            }
        };
        assert!(full.starts_with("error full"), "{full}");
        assert!(said > 20, "{said}");
        server.restart(&[]);
        let again = within(DEADLINE, || {
            let mut connection = instance.connect();
            connection
                .try_send(format!("arijort:{said} {message}\n").as_bytes())
                .map_err(|error| error.to_string())?;
            match connection.try_line() {
                Ok(Some(line)) if !line.starts_with("error ") => Ok(()),
                other => Err(format!("{other:?}: {}", instance.stderr())),
            }
        });
        again.expect("messages are taken again");
        said += 1;
        instance.stop();
        scene_of(&place, &server);
        let messages = server.lines().keys().filter(|line| line.contains(&message)).count();
        assert_eq!((messages, server.lines().values().sum::<u64>()), (said, said as u64));
    });
}

/// Ships what an instance that has ended left.
#[track_caller]
fn scene_of(place: &Place, server: &Server) {
    let mut command = crate::scene::collector(&place.spool_dir(), server.port);
    let mut running = Running::start(command.arg("--once"));
    running.finish_within(DEADLINE + Duration::from_secs(1)).assert_succeeded();
}

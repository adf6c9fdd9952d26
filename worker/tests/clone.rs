//! Both ways to clone. Only a process of one thread can, so this is a program of its own without test threads: it starts
//! itself once more, and that one clones itself into a sibling, whose parent is the first.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use common::ids::{Pid, SlotIndex};
use common::region::Region;
use common::sys::clone::{Cloned, Cloner, Method, thread_id_is_right};
use nix::sys::wait::{WaitStatus, waitpid};

/// Tells the second process which method to use.
const METHOD: &str = "CLONE_TEST_METHOD";
const REGION: &str = "CLONE_TEST_REGION";

fn main() {
    if let Some(method) = std::env::var_os(METHOD) {
        let method = if method == "clone" { Method::Clone } else { Method::Clone3 };
        std::process::exit(clone_once(method, &std::env::var_os(REGION).unwrap()));
    }
    for method in ["clone3", "clone"] {
        check(method);
        println!("test {method} ... ok");
    }
    a_process_with_threads_is_not_cloned();
    println!("test a_process_with_threads_is_not_cloned ... ok");
}

fn check(method: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let region = Region::create(file.as_file(), 1 << 20).unwrap();
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .env(METHOD, method)
        .env(REGION, file.path())
        .spawn()
        .unwrap();
    assert_eq!(caller.wait().unwrap().code(), Some(0), "the caller, with {method}");
    let clone = region.slot(SlotIndex(0)).unwrap().pid();
    assert_ne!(clone, Pid(0));
    // It is this process's child although the other one made it.
    assert_eq!(
        waitpid(clone.raw(), None),
        Ok(WaitStatus::Exited(clone.raw(), 42)),
        "the clone, with {method}"
    );
}

/// The second process, and its clone; gives the code to leave with.
fn clone_once(method: Method, region: &OsStr) -> i32 {
    let file = File::options().read(true).write(true).open(Path::new(region)).unwrap();
    let region = Region::attach(&file).unwrap();
    let slot = region.slot(SlotIndex(0)).unwrap();
    let mut cloner = Cloner::prepare_with(method);
    match cloner.clone_sibling(&slot.pid).unwrap() {
        Cloned::Caller(pid) => i32::from(slot.pid() != pid || cloner.method() != method),
        Cloned::Clone if thread_id_is_right() && slot.pid() == Pid::current() => 42,
        Cloned::Clone => 1,
    }
}

fn a_process_with_threads_is_not_cloned() {
    let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || ended.recv());
    assert!(Cloner::prepare().clone_sibling(&region.slot(SlotIndex(0)).unwrap().pid).is_err());
    drop(end);
    let _ = thread.join().unwrap();
}

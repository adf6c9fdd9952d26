//! Where the programs are that the tests run: those of the same build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a directory that holds the programs to be tested; nothing is built then.
pub const BIN_DIR_VARIABLE: &str = "HOLDFAST_BIN_DIR";

/// The programs that an installation consists of.
pub const ALL: [&str; 8] =
    ["supervisor", "worker", "recovery", "cclient", "acquired", "block", "data_collector", "exporter"];

/// What is built besides for the tests alone.
const EXAMPLES: [&str; 12] = [
    "--example=puppet",
    "--example=bank",
    "--example=post",
    "--example=limiter",
    "--example=turnstile",
    "--example=shout",
    "--example=ask",
    "--example=join",
    "--example=visitor",
    "--example=frames",
    "--example=churn",
    "--example=loud",
];

/// The path of a program.
pub fn path(name: &str) -> PathBuf {
    directory().join(name)
}

/// The path of the puppet, which stands in for a child that misbehaves (see `examples/puppet.rs`).
pub fn puppet() -> PathBuf {
    example("puppet")
}

/// The path of the worker whose processes share accounts and sessions (see `worker/examples/bank.rs`).
pub fn bank() -> PathBuf {
    example("bank")
}

/// The path of the worker whose requests queue for locks (see `worker/examples/turnstile.rs`).
pub fn turnstile() -> PathBuf {
    example("turnstile")
}

/// The path of the worker whose processes share queues and a blob (see `worker/examples/post.rs`).
pub fn post() -> PathBuf {
    example("post")
}

/// The path of the worker that limits rates (see `worker/examples/limiter.rs`).
pub fn limiter() -> PathBuf {
    example("limiter")
}

/// The path of the worker that writes to its stderr and falls over as it is told (see `worker/examples/loud.rs`).
pub fn loud() -> PathBuf {
    example("loud")
}

/// The path of the client of a daemon that is started on demand (see `client/examples/ask.rs`).
pub fn ask() -> PathBuf {
    example("ask")
}

/// The path of the program that joins a region (see `client/examples/join.rs`).
pub fn join() -> PathBuf {
    example("join")
}

/// The path of the program that is attached and does what it is told (see `examples/visitor/`).
pub fn visitor() -> PathBuf {
    example("visitor")
}

/// The path of the producer and the consumers of pictures (see `client/examples/frames.rs`).
pub fn frames() -> PathBuf {
    example("frames")
}

/// The path of one of many that use the same blocks (see `examples/churn.rs`).
pub fn churn() -> PathBuf {
    example("churn")
}

/// The directory of the C library, shared and static, of the same build.
pub fn libraries() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["--package", "capi"]));
    profile_directory()
}

/// The path of the server that takes minute files (see `src/bin/test-server`). It is always of this build.
pub fn test_server() -> PathBuf {
    let _ = directory();
    profile_directory().join("test-server")
}

/// Even where the programs come from elsewhere, the examples are of this build.
fn example(name: &str) -> PathBuf {
    let _ = directory();
    profile_directory().join("examples").join(name)
}

fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os(BIN_DIR_VARIABLE) {
        Some(named) => {
            build(
                &[
                    &["--package", "holdfast-tests", "--package", "worker", "--package", "client"][..],
                    &["--bin", "test-server"],
                    &EXAMPLES[..],
                ]
                .concat(),
            );
            std::path::absolute(named).expect("a path can be made absolute")
        }
        None => {
            build(&[&["--workspace", "--bins"], &EXAMPLES[..]].concat());
            profile_directory()
        }
    })
}

/// `target/debug`, above this test's own `target/debug/deps`.
fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("a process has a program");
    own.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// Builds what the tests run, so that testing this package alone works too: with the profile, the target directory
/// and the target triple of this very test.
fn build(what: &[&str]) {
    let profile_directory = profile_directory();
    let profile = match profile_directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} does not name a profile", profile_directory.display()),
    };
    let above = profile_directory.parent().expect("a profile's directory lies in the target directory");
    // Cargo tags the target directory itself, unless others have made it; between it and the profile's may stand a triple.
    let tagged = above.join("CACHEDIR.TAG").exists();
    let triple = above.file_name().filter(|name| !tagged && name.to_string_lossy().contains('-'));
    let target_directory = if triple.is_some() { above.parent().unwrap_or(above) } else { above };

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").args(["--quiet", "--profile", profile]).args(what);
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.arg("--target-dir").arg(target_directory);
    if let Some(triple) = triple {
        command.arg("--target").arg(triple);
    }
    let output = command.output().expect("cargo can be started");
    assert!(
        output.status.success(),
        "the programs cannot be built: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

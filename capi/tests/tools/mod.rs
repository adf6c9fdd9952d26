//! Programs in C and Python, with the library of this build.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use holdfast_tests::programs::libraries;

/// A path in this package.
pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A C program, compiled against the library as strictly as can be.
pub fn compiled(directory: &Path, source: &str, statically: bool) -> PathBuf {
    let program = directory.join(format!("{}-{statically}", source.replace(['/', '.'], "-")));
    let mut command = Command::new("cc");
    command.args([
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-pthread",
        "-D_POSIX_C_SOURCE=200809L",
    ]);
    command.arg("-I").arg(here("include")).arg(here(source)).arg("-o").arg(&program);
    if statically {
        command.arg(libraries().join("libholdfast.a")).args([
            "-lgcc_s",
            "-lutil",
            "-lrt",
            "-lpthread",
            "-lm",
            "-ldl",
        ]);
    } else {
        command.arg("-L").arg(libraries()).arg("-lholdfast");
    }
    succeeded(&command.output().expect("a C compiler is there"));
    program
}

/// What a program that succeeded has said.
#[track_caller]
pub fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Lets a program find the library.
pub fn with_library(command: &mut Command) -> &mut Command {
    command
        .env("LD_LIBRARY_PATH", libraries())
        .env("HOLDFAST_LIBRARY", libraries().join("libholdfast.so"))
        .env("PYTHONPATH", here("../python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

/// Starts a program with pipes.
pub fn start(command: &mut Command) -> Child {
    let command = with_library(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it can be started")
}

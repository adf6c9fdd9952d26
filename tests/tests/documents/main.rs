//! The documents: every command in them is executed, and what they show is what it prints.
//!
//! In a block that is fenced as `console`, a line that begins with `$ ` is a command, and what follows it is what it prints, among other
//! things. `console libraries` needs a C compiler and pip, and minutes: with HOLDFAST_DOCUMENTS=all only, and then all is built anew as it
//! says there, too. `console machine` is for a machine of its own,
//! where `scripts/prove-package` executes it.

mod shell;
mod transcript;

use std::path::{Path, PathBuf};

use shell::Shell;
use transcript::{Kind, Step};

/// Executes the commands of a document, from the first to the last, in one shell.
#[track_caller]
fn execute(document: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = std::fs::read_to_string(&path).expect("the document is there");
    let all = std::env::var_os("HOLDFAST_DOCUMENTS").is_some_and(|which| which == "all");
    let steps = transcript::steps(&text);
    assert!(!steps.is_empty(), "{document} has no commands");
    let mut shell = Shell::start(all);
    for Step { command, shown, line, .. } in steps.iter().filter(|step| match step.kind {
        Kind::Plain => true,
        Kind::Libraries => all,
        Kind::Machine => false,
    }) {
        shell.execute(&format!("{document}:{line}"), command, shown);
    }
}

#[test]
fn the_readme_is_true() {
    execute("README.md");
}

#[test]
fn operations_are_as_described() {
    execute("docs/operations.md");
}

#[test]
fn data_is_shared_as_described() {
    execute("docs/sharing-data.md");
}

#[test]
fn a_service_is_written_as_described() {
    execute("docs/writing-a-service.md");
}

#[test]
fn the_journal_is_shipped_as_described() {
    execute("docs/shipping.md");
}

/// Paths that the documents name lead somewhere.
#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documents = std::fs::read_dir(root.join("docs")).expect("there are documents");
    let documents = documents.map(|entry| entry.expect("a directory can be read").path());
    for document in documents
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .chain([root.join("README.md")])
    {
        let text = std::fs::read_to_string(&document).expect("a document can be read");
        for target in transcript::links(&text) {
            let target = target.split('#').next().unwrap_or_default();
            let place: PathBuf = document.parent().expect("a file lies in a directory").join(target);
            assert!(place.exists(), "{}: {target} is not there", document.display());
        }
    }
}

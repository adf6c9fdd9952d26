//! What the targets share.

use std::path::PathBuf;

use common::error::Error;

pub mod scene;

/// A path in memory for this process alone. Left behind: the process is killed, not ended.
pub fn file(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("holdfast-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    directory.join(name)
}

/// An error is one sentence for people.
pub fn check_sentence(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}

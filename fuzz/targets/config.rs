//! A configuration file is read or refused with a sentence that names the line.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use supervisor::config::Configuration;

static PATH: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let path = PATH.get_or_init(|| holdfast_fuzz::file("config"));
    std::fs::write(path, bytes).unwrap();
    match Configuration::of_file(path) {
        Ok(mut configuration) => {
            configuration.sources.read_again().expect("it was read before");
        }
        Err(error) => holdfast_fuzz::check_sentence(&error),
    }
});

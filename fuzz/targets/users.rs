//! A users file is read or refused with a sentence.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use worker::Settings;
use worker::line_service::LineService;

static PATH: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let path = PATH.get_or_init(|| holdfast_fuzz::file("users"));
    std::fs::write(path, bytes).unwrap();
    let settings = Settings { users: Some(path.clone()), ..Settings::default() };
    if let Err(error) = LineService::load(&settings) {
        holdfast_fuzz::check_sentence(&error);
    }
});

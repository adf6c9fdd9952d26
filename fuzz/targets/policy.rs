//! A policy file is read or refused with a sentence, and never lets in who is not named.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use supervisor::access::{AccessPolicy, Rights};

static PATH: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let path = PATH.get_or_init(|| holdfast_fuzz::file("policy"));
    std::fs::write(path, bytes).unwrap();
    match AccessPolicy::read(Some(path)) {
        Ok(policy) => {
            let remote = std::str::from_utf8(bytes).is_ok_and(|text| text.contains("remote"));
            assert!(policy.rights(None) == Rights::None || remote, "nobody is asked who he is there");
        }
        Err(error) => holdfast_fuzz::check_sentence(&error),
    }
});

//! Frames on the control socket and on the channels between processes: each is read or refused, and what was read is written
//! as what reads the same.
#![no_main]

use common::wire::control::{Order, Report, Request, Response, decode, encode};
use libfuzzer_sys::fuzz_target;

fn read<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(frame: &[u8]) {
    let Ok(value) = decode::<T>(frame) else { return };
    let again = encode(&value).expect("what was read can be written");
    assert_eq!(decode::<T>(&again).expect("what was written can be read"), value);
}

fuzz_target!(|frame: &[u8]| {
    read::<Order>(frame);
    read::<Report>(frame);
    read::<Request>(frame);
    read::<Response>(frame);
});

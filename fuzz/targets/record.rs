//! A message becomes a journal record that is one line of JSON and known by its own id alone; bytes from a file that a
//! machine tore are taken for a whole record only if they are one.
#![no_main]

use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::journal::record::{Record, RecordId, is_whole};
use libfuzzer_sys::fuzz_target;

const FORGED: &[u8] = br#","crc":""#;

fuzz_target!(|input: (u64, u32, u32, u64, &str, &str, &[u8])| {
    let (epoch, slot, generation, seq, user, message, torn) = input;
    let owner = Owner { slot: SlotIndex(slot), generation: Generation(generation) };
    let id = RecordId { epoch, owner, seq };
    let mut line = Vec::new();
    Record { id, time_ns: epoch ^ seq, pid: Pid(77), user, message }.encode(&mut line);
    assert!(is_whole(&line, id));
    assert!(!is_whole(&line, RecordId { seq: seq.wrapping_add(1), ..id }));
    let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!((value["user"].as_str(), value["message"].as_str()), (Some(user), Some(message)));
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    // Torn: its beginning with anything behind.
    let whole = is_whole(torn, id);
    assert!(!whole || torn.ends_with(b"\n"));
    // The fuzzer sees what a check is compared with, and forges one. That is no torn record.
    let forged = torn.windows(FORGED.len()).any(|bytes| bytes == FORGED);
    for cut in [1, line.len() / 2, line.len() - 1] {
        assert!(!is_whole(&line[..cut], id));
        let mixed: Vec<u8> = line[..cut].iter().chain(torn).copied().collect();
        assert!(mixed == line || forged || !is_whole(&mixed, id));
    }
});

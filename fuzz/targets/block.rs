//! Whatever stands in a block's file: consumers and producers refuse it or go on, and touch nothing outside of it.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use client::block::{Blocks, Options};
use libfuzzer_sys::fuzz_target;

/// A block's file with two contents written.
struct Sound {
    directory: PathBuf,
    bytes: Vec<u8>,
}

static SOUND: OnceLock<Sound> = OnceLock::new();

fn sound() -> Sound {
    let directory = holdfast_fuzz::file("blocks");
    let blocks = Blocks::create(&directory).expect("a directory");
    let mut producer = blocks.producer("weather", Options::default()).expect("a producer");
    producer.publish(b"sunny", Duration::from_secs(1)).expect("published");
    producer.publish(b"rain", Duration::from_secs(1)).expect("published");
    let bytes = std::fs::read(directory.join("weather")).expect("the file");
    Sound { directory, bytes }
}

fuzz_target!(|input: &[u8]| {
    let Sound { directory, bytes } = SOUND.get_or_init(sound);
    let mut bytes = bytes.clone();
    for scribble in input.chunks_exact(10).take(32) {
        let at = usize::from(u16::from_le_bytes([scribble[0], scribble[1]])) * 8;
        // Most of what matters stands at the beginning.
        let at = at % bytes.len().min(4096);
        let end = (at + 8).min(bytes.len());
        bytes[at..end].copy_from_slice(&scribble[2..2 + end - at]);
    }
    let path = directory.join("weather");
    std::fs::write(&path, &bytes).expect("written");
    let blocks = Blocks::open(directory).expect("a directory");
    if let Ok(mut consumer) = blocks.consumer("weather") {
        let mut content = Vec::new();
        let _ = (consumer.version(), consumer.read(&mut content), consumer.wait(Duration::ZERO));
        if let Ok(pinned) = consumer.pin() {
            let mut copy = vec![0; pinned.len().min(1 << 20)];
            let _ = pinned.copy_to(0, &mut copy);
        }
    }
    if let Ok(mut producer) = blocks.producer("weather", Options::default()) {
        let _ = producer.publish(b"snow", Duration::from_secs(1));
    }
    let _ = (blocks.look_at("weather"), blocks.names());
    let _ = std::fs::remove_file(&path);
});

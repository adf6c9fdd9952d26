//! One of many that use the same few blocks at once, each killed at some moment: a producer, a consumer or one that
//! removes, by its seed. Ends by itself only if it saw what must not be.
//!
//! `churn DIR NAMES SEED`

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use client::block::{Blocks, Consumer, Failure, Options, Producer};
use holdfast_tests::random::Random;

/// Longer than anything may take while a thousand others want the same.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of seed, length and checksum before the rest.
const HEADER: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, names, seed] = arguments.as_slice() else { return ExitCode::from(2) };
    let (names, seed) = (names.parse().unwrap_or(1), seed.parse().unwrap_or(0));
    match live(Path::new(directory), names, Random::new(seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("churn {seed}: {what}");
            ExitCode::FAILURE
        }
    }
}

fn live(directory: &Path, names: u64, mut random: Random) -> Result<(), String> {
    let blocks = Blocks::create(directory).map_err(|failure| failure.to_string())?;
    let role = random.below(100);
    loop {
        let name = format!("block-{}", random.below(names));
        let lived = match role {
            0..45 => produce(&blocks, &name, &mut random),
            45..97 => consume(&blocks, &name, &mut random),
            _ => remove(&blocks, &name, &mut random),
        };
        match lived {
            // Somebody removes, or all at once want the same.
            Ok(()) | Err(Failure::Unknown(_) | Failure::Removed(_) | Failure::Busy(_)) => {
                nap(&mut random, 5000);
            }
            Err(failure) => return Err(format!("{name}: {failure}")),
        }
    }
}

fn nap(random: &mut Random, us: u64) {
    std::thread::sleep(Duration::from_micros(random.below(us)));
}

fn remove(blocks: &Blocks, name: &str, random: &mut Random) -> Result<(), Failure> {
    nap(random, 200_000);
    blocks.remove(name, LIMIT)
}

fn produce(blocks: &Blocks, name: &str, random: &mut Random) -> Result<(), Failure> {
    let mut producer = blocks.producer(name, Options::default())?;
    let hold = random.below(3) == 0;
    if hold {
        producer.hold(LIMIT)?;
    }
    for _ in 0..random.below(20) {
        let content = content(random);
        if random.below(2) == 0 {
            producer.publish(&content, LIMIT)?;
        } else {
            publish_in_pieces(&mut producer, &content)?;
        }
        nap(random, 2000);
    }
    Ok(())
}

fn publish_in_pieces(producer: &mut Producer, content: &[u8]) -> Result<(), Failure> {
    producer.begin(content.len() as u64, LIMIT)?;
    for (number, piece) in content.chunks(10_000).enumerate() {
        producer.write(number as u64 * 10_000, piece)?;
    }
    producer.commit(LIMIT).map(drop)
}

fn content(random: &mut Random) -> Vec<u8> {
    let length = match random.below(10) {
        0 => 100_000 + random.below(400_000),
        1..4 => 10_000 + random.below(40_000),
        _ => random.below(500),
    };
    let seed = random.word();
    let mut bytes = vec![seed as u8; HEADER + length as usize];
    Random::new(seed).fill(&mut bytes[HEADER..HEADER + length.min(300) as usize]);
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[HEADER..]);
    bytes[16..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn consume(blocks: &Blocks, name: &str, random: &mut Random) -> Result<(), Failure> {
    let mut consumer = blocks.consumer(name)?;
    let locked = random.below(8) == 0;
    if locked {
        consumer.lock(LIMIT)?;
    }
    let mut last = (consumer.identity(), 0);
    let mut bytes = Vec::new();
    for _ in 0..random.below(30) {
        let way = random.below(3);
        if way == 0 {
            consumer.wait(Duration::from_millis(random.below(20)))?;
        }
        let version = if way == 1 {
            read_pinned(&mut consumer, random, &mut bytes)?
        } else {
            consumer.read(&mut bytes)?
        };
        check(&bytes)?;
        let now = (consumer.identity(), version);
        if now.0 == last.0 && now.1 < last.1 {
            return Err(Failure::Refused(format!("version {} came after {}", now.1, last.1)));
        }
        if locked && last.1 != 0 && now != last {
            return Err(Failure::Refused("it was written to in spite of a lock".to_owned()));
        }
        last = now;
    }
    Ok(())
}

fn read_pinned(consumer: &mut Consumer, random: &mut Random, bytes: &mut Vec<u8>) -> Result<u64, Failure> {
    let pinned = consumer.pin()?;
    nap(random, 3000);
    bytes.resize(pinned.len(), 0);
    if pinned.copy_to(0, bytes) { Ok(pinned.version()) } else { Err(Failure::Empty) }
}

fn check(bytes: &[u8]) -> Result<(), Failure> {
    let torn = || Failure::Refused(format!("torn content of {} bytes", bytes.len()));
    let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(torn)?;
    let length = u64::from_le_bytes(header[8..16].try_into().map_err(|_| torn())?);
    let sum = crc32c::crc32c(body).to_le_bytes();
    if length == body.len() as u64 && header[16..] == sum { Ok(()) } else { Err(torn()) }
}

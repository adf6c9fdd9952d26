//! A camera and those who look through it: a producer shares 30 pictures of 8 MB a second under a name, and any number of
//! consumers use each where it lies in memory. Kill any of them with SIGKILL and start it again: the others go on.
//!
//! ```console
//! $ cargo build --release -p client --examples
//! $ target/release/examples/frames produce camera &
//! $ target/release/examples/frames consume camera &
//! $ target/release/examples/frames consume camera
//! ```

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use client::block::{Blocks, Consumer, Failure, Options, default_directory};
use common::error::{Error, Result};
use common::units::Size;

/// A picture begins with its number and the checksum of what follows.
const HEADER: usize = 16;

/// How long anybody waits for anybody.
const LIMIT: Duration = Duration::from_secs(10);

/// Share pictures, or look at them
#[derive(Parser, Debug)]
struct Arguments {
    /// Which side
    side: Side,
    /// The block
    name: String,
    /// The directory of blocks [default: blocks in the run directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Bytes of a picture
    #[arg(long, default_value = "8MB")]
    size: Size,
    /// Pictures in a second
    #[arg(long, default_value_t = 30.0)]
    rate: f64,
    /// End after so many pictures
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Side {
    Produce,
    Consume,
}

fn main() -> ExitCode {
    common::error::run("frames", || {
        let arguments = common::command_line::read::<Arguments>()?;
        let directory = arguments.dir.clone().unwrap_or_else(default_directory);
        match arguments.side {
            Side::Produce => produce(&Blocks::create(&directory)?, &arguments),
            Side::Consume => {
                consume(&mut Blocks::open(&directory)?.consumer(&arguments.name)?, arguments.count)
            }
        }
    })
}

fn produce(blocks: &Blocks, arguments: &Arguments) -> Result<()> {
    let mut producer = blocks.producer(&arguments.name, Options::default())?;
    // One producer at a time. The next waits here, and goes on the moment this one is dead.
    producer.hold(LIMIT)?;
    let first = blocks.look_at(&arguments.name)?.map_or(1, |block| block.version + 1);
    let mut picture = vec![0; (arguments.size.0 as usize).max(HEADER + 1)];
    let (began, between) = (Instant::now(), Duration::from_secs_f64(1.0 / arguments.rate));
    for turn in 0..arguments.count.unwrap_or(u64::MAX) {
        paint(&mut picture, first + turn);
        producer.publish(&picture, LIMIT)?;
        let next = began + between.mul_f64((turn + 1) as f64);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn paint(picture: &mut [u8], number: u64) {
    let (header, body) = picture.split_at_mut(HEADER);
    body.fill(number as u8);
    body[..8.min(number as usize)].fill(!number as u8);
    header[..8].copy_from_slice(&number.to_le_bytes());
    header[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

fn consume(consumer: &mut Consumer, count: Option<u64>) -> Result<()> {
    let (mut last, mut missed) = (0, 0);
    let (began, mut seen) = (Instant::now(), 0);
    while count.is_none_or(|count| seen < count) {
        // A producer that is being started again has that long.
        if !consumer.wait(LIMIT)? {
            return Err(Failure::Busy(format!("no picture after number {last}")).into());
        }
        let number = look(consumer)?;
        if number <= last {
            return Err(Error::failure(format!("picture {number} came after {last}")));
        }
        missed += if last == 0 { 0 } else { number - last - 1 };
        (last, seen) = (number, seen + 1);
        let rate = f64::from(seen as u32) / began.elapsed().as_secs_f64();
        // Nobody may be reading.
        let _ = writeln!(std::io::stdout(), "picture {number} is whole, {missed} missed, {rate:.1} a second");
    }
    Ok(())
}

/// Uses the newest picture in place; its number.
fn look(consumer: &mut Consumer) -> Result<u64> {
    let pinned = consumer.pin()?;
    let mut header = [0; HEADER];
    let (mut sum, mut at) = (0, 0);
    let Ok(()) = pinned.for_each_piece(|piece| {
        let body = if at == 0 { &piece[HEADER..] } else { piece };
        (sum, at) = (crc32c::crc32c_append(sum, body), at + piece.len());
        Ok::<(), std::convert::Infallible>(())
    });
    let whole = pinned.copy_to(0, &mut header) && header[8..12] == sum.to_le_bytes();
    if !whole {
        return Err(Error::failure("a picture is torn"));
    }
    Ok(u64::from_le_bytes(header[..8].try_into().unwrap_or_default()))
}

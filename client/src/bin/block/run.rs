//! What the commands do.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use client::block::{Blocks, Consumer, Failure, MAX_CONTENT, Options, default_directory};
use common::error::{Context, Error, Result};
use common::output;

use crate::cli::{Arguments, Command, Place};

/// A wait for something newer is begun again after so long.
const LOOK: Duration = Duration::from_secs(3600);

/// How long a removal waits for a block that is being replaced.
const REMOVAL: Duration = Duration::from_secs(10);

/// Does what was asked for.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Produce { name, place, size, group, timeout } => {
            let options = Options { size: size.map(|size| size.0), group };
            produce(&name, place, options, timeout.0)
        }
        Command::Consume { name, place, follow } => {
            let mut consumer = Blocks::open(&directory(place))?.consumer(&name)?;
            match consume(&mut consumer, follow) {
                // Nobody reads any more: that is how a pipe ends.
                Err(Ending::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                Err(Ending::Output(error)) => Err(error).context(|| format!("cannot print block {name}")),
                Err(Ending::Block(failure)) => Err(failure.into()),
                Ok(()) => Ok(()),
            }
        }
        Command::List { place } => list(place),
        Command::Remove { name, place } => Ok(Blocks::open(&directory(place))?.remove(&name, REMOVAL)?),
    }
}

fn directory(place: Place) -> PathBuf {
    place.dir.unwrap_or_else(default_directory)
}

fn produce(name: &str, place: Place, options: Options, timeout: Duration) -> Result<()> {
    let most = options.size.unwrap_or(MAX_CONTENT);
    let mut producer = Blocks::create(&directory(place))?.producer(name, options)?;
    let mut content = Vec::new();
    // One byte more than fits tells that it does not.
    io::stdin().take(most + 1).read_to_end(&mut content).context(|| "cannot read stdin".to_owned())?;
    if content.len() as u64 > most {
        let remedy = if most < MAX_CONTENT { "give a larger --size, or none" } else { "use several blocks" };
        return Err(Error::failure(format!(
            "there are more than {most} bytes on stdin, which do not fit: {remedy}"
        )));
    }
    producer.publish(&content, timeout)?;
    Ok(())
}

/// Why nothing more is printed.
enum Ending {
    Output(io::Error),
    Block(Failure),
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        Self::Block(failure)
    }
}

fn consume(consumer: &mut Consumer, follow: bool) -> std::result::Result<(), Ending> {
    let mut stdout = io::stdout().lock();
    loop {
        let pinned = consumer.pin()?;
        pinned.for_each_piece(|piece| stdout.write_all(piece)).map_err(Ending::Output)?;
        stdout.flush().map_err(Ending::Output)?;
        drop(pinned);
        if !follow {
            return Ok(());
        }
        while !consumer.wait(LOOK)? {}
    }
}

fn list(place: Place) -> Result<()> {
    let blocks = match Blocks::open(&directory(place)) {
        // A directory that nobody has needed yet holds no blocks.
        Err(Failure::Unknown(_)) => return Ok(()),
        blocks => blocks?,
    };
    let mut refused = None;
    let mut lines = String::new();
    for name in blocks.names()? {
        match blocks.look_at(&name) {
            Ok(Some(listed)) => lines += &format!("{name}\t{}\t{}\n", listed.length, listed.version),
            Ok(None) => {}
            Err(failure) => refused = Some(failure),
        }
    }
    output::print(&lines)?;
    refused.map_or(Ok(()), |failure| Err(failure.into()))
}

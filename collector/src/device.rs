//! The device: a thread that makes a reading at random moments and writes it to the journal, alone in its spool.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use common::journal::single::SingleWriter;
use common::sys::process;
use crossbeam_channel::{Receiver, Sender, never, select_biased};

/// How often a reading that found no room is tried again.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// The user in a reading's record.
const USER: &str = "device";

/// What the distributor asks of the device.
#[derive(Debug)]
pub struct Seal {
    /// Also a minute that is not over.
    pub early: bool,
    /// Told when it is done, or cannot be.
    pub done: Sender<()>,
}

/// The device.
#[derive(Debug)]
pub struct Device {
    writer: SingleWriter,
    interval: RangeInclusive<Duration>,
    chance: Chance,
    /// A reading that has found no room: it waits, and no other is made before it is written.
    held: Option<String>,
    full: bool,
}

impl Device {
    /// A device that waits for a time out of `interval` before each reading.
    pub fn new(writer: SingleWriter, interval: RangeInclusive<Duration>) -> Self {
        Self { writer, interval, chance: Chance::new(), held: None, full: false }
    }

    /// Makes readings until `stop` is closed; then seals what it has written.
    pub fn work(mut self, orders: &Receiver<Seal>, stop: &Receiver<()>) {
        let mut orders = orders.clone();
        let mut next = Instant::now() + self.pause();
        loop {
            select_biased! {
                recv(stop) -> _ => break,
                recv(orders) -> order => match order {
                    Ok(Seal { early, done }) => {
                        self.seal(early);
                        let _ = done.send(());
                    }
                    // Nobody ships any more; the readings stay.
                    Err(_) => orders = never(),
                },
                default(next.saturating_duration_since(Instant::now())) => {
                    self.read();
                    next = Instant::now() + self.pause();
                }
            }
        }
        self.seal(true);
        log::info!("the device made {} readings", self.writer.records());
    }

    fn pause(&mut self) -> Duration {
        if self.held.is_some() {
            return ROOM_PAUSE;
        }
        let (least, most) = (*self.interval.start(), *self.interval.end());
        least + most.saturating_sub(least).mul_f64(self.chance.unit())
    }

    fn read(&mut self) {
        let reading = self.held.take().unwrap_or_else(|| self.reading());
        match self.writer.append(USER, &reading) {
            Ok(_) if self.full => {
                self.full = false;
                log::info!("there is room again: the device goes on");
            }
            Ok(_) => {}
            Err(error) => {
                if !self.full {
                    log::error!("a reading cannot be written and waits: {error}");
                }
                self.full = true;
                self.held = Some(reading);
            }
        }
    }

    fn reading(&mut self) -> String {
        let temperature = 15.0 + 10.0 * self.chance.unit();
        let humidity = 30.0 + 40.0 * self.chance.unit();
        format!("temperature {temperature:.3} C, humidity {humidity:.2} %")
    }

    fn seal(&mut self, early: bool) {
        if let Err(error) = self.writer.seal(early) {
            log::error!("the device's minute cannot be sealed yet: {error}");
        }
    }
}

/// Numbers that nobody has to guess (xorshift).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Another one each time.
    pub fn new() -> Self {
        Self(process::random_word().unwrap_or_else(|_| process::now_ns()) | 1)
    }

    /// A number in 0..1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_lies_between_0_and_1_and_varies() {
        let mut chance = Chance::new();
        let all: Vec<f64> = (0..1000).map(|_| chance.unit()).collect();
        assert!(all.iter().all(|unit| (0.0..1.0).contains(unit)));
        assert!(all.iter().any(|&unit| unit < 0.2) && all.iter().any(|&unit| unit > 0.8));
    }
}

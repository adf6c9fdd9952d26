//! The role `journal`: the keeper as a process of its own, so that no repair waits for a disk.

use std::time::{Duration, Instant};

use common::error::{Context as _, Result};
use common::ids::Minute;
use common::wire::control::{Order, Report};

use crate::attachment::{Attachment, Word};
use crate::keeper::{Keeper, TICK};

/// How long what is still being written may keep the end of an instance waiting before it is named.
const SEAL_ALL_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const SEAL_ALL_TICK: Duration = Duration::from_millis(10);

/// Keeps the journal until the supervisor closes the channel.
///
/// # Errors
/// Where the channel, the region or the spool cannot be used.
pub fn run() -> Result<()> {
    common::logging::init("journal");
    let Some(attachment) = Attachment::receive()? else { return Ok(()) };
    let keeper = Keeper::new(attachment.region(), attachment.spool(), attachment.settings().sync)
        .context(|| "cannot read what is sealed in the spool".to_owned())?;
    let mut keeper = keeper.sealing_every(attachment.settings().seal_interval);
    let mut sealing = None;
    let mut attached = attachment.report(&Report::Ready)?;
    while attached {
        match attachment.listen(Some(sealing.as_ref().map_or(TICK, SealAll::tick)))? {
            Word::Order(Order::SealAll) => sealing = Some(SealAll::new()),
            Word::Order(other) => log::error!("the journal's keeper got an order not for it: {other:?}"),
            Word::Silence | Word::Tidings(_) => {}
            Word::Farewell => return Ok(()),
        }
        let Some(seal_all) = &mut sealing else {
            keeper.tick(Minute::now(), Instant::now());
            continue;
        };
        if let Some(report) = seal_all.proceed(&mut keeper, Instant::now()) {
            attached = attachment.report(&report)?;
            sealing = sealing.filter(|_| report != Report::Sealed);
        }
    }
    Ok(())
}

/// The order to seal everything, while it is carried out. It is never given up, only complained about.
#[derive(Debug)]
struct SealAll {
    deadline: Instant,
    complained: bool,
}

impl SealAll {
    fn new() -> Self {
        Self { deadline: Instant::now() + SEAL_ALL_LIMIT, complained: false }
    }

    fn tick(&self) -> Duration {
        if self.complained { TICK } else { SEAL_ALL_TICK }
    }

    fn proceed(&mut self, keeper: &mut Keeper<'_>, now: Instant) -> Option<Report> {
        if keeper.seal_everything(now) {
            return Some(Report::Sealed);
        }
        if self.complained || now < self.deadline {
            return None;
        }
        self.complained = true;
        let why = keeper.obstacle().unwrap_or("minutes are still being opened");
        Some(Report::Failed(format!("the journal cannot be sealed yet: {why}")))
    }
}

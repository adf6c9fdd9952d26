//! Reading without a lock: copy, then look whether the object was being changed meanwhile, and if so again.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::layout::Object;
use crate::lock;
use crate::objects::{Handle, Kind};
use crate::region::Region;

/// How long a reader tries. A writer changes an object for less than a microsecond, unless it is stopped or dead.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it tries before it sleeps.
const TRIES: u32 = 100;

/// How long it sleeps then, doubling.
const FIRST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// Why an object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is no such object (any more).
    NotFound,
    /// It was being changed as long as the reader had patience.
    Busy,
    /// It holds what no transaction leaves.
    Damaged,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such object",
            Self::Busy => "the object was being changed all the time",
            Self::Damaged => "the object is damaged",
        })
    }
}

impl std::error::Error for ReadError {}

/// What was read is no state of an object: it was being changed, or it is damaged.
#[derive(Debug)]
pub(crate) struct Broken;

/// Gives what `read` made of an object at one moment between two changes.
#[inline(always)]
pub(crate) fn read<T>(
    region: &Region,
    handle: Handle,
    kind: Kind,
    mut read: impl FnMut(&Object) -> Result<T, Broken>,
) -> Result<T, ReadError> {
    let object = region.object(handle.index).ok_or(ReadError::NotFound)?;
    // Nearly always once is enough: so that is what stands where it is called, and trying again elsewhere.
    match try_once(object, handle, kind, &mut read) {
        Some(outcome) => outcome,
        None => read_again(object, handle, kind, read),
    }
}

/// `None` where it was being changed.
#[inline(always)]
fn try_once<T>(
    object: &Object,
    handle: Handle,
    kind: Kind,
    read: &mut impl FnMut(&Object) -> Result<T, Broken>,
) -> Option<Result<T, ReadError>> {
    let copied = lock::read_once(&object.seq, || {
        let same = object.identity.load(Relaxed) == handle.identity(kind);
        same.then(|| read(object))
    })?;
    Some(match copied {
        Some(outcome) => outcome.map_err(|Broken| ReadError::Damaged),
        None => Err(ReadError::NotFound),
    })
}

#[cold]
#[inline(never)]
fn read_again<T>(
    object: &Object,
    handle: Handle,
    kind: Kind,
    mut read: impl FnMut(&Object) -> Result<T, Broken>,
) -> Result<T, ReadError> {
    let mut pace = Pace::default();
    loop {
        pace.wait()?;
        if let Some(outcome) = try_once(object, handle, kind, &mut read) {
            return outcome;
        }
    }
}

/// The pauses between tries.
#[derive(Default)]
struct Pace {
    tries: u32,
    nap: Duration,
    deadline: Option<Instant>,
}

impl Pace {
    fn wait(&mut self) -> Result<(), ReadError> {
        self.tries += 1;
        if self.tries <= TRIES {
            std::hint::spin_loop();
            return Ok(());
        }
        let now = Instant::now();
        if now >= *self.deadline.get_or_insert(now + PATIENCE) {
            return Err(ReadError::Busy);
        }
        self.nap = (self.nap * 2).clamp(FIRST_NAP, LONGEST_NAP);
        std::thread::sleep(self.nap);
        Ok(())
    }
}

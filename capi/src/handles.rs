//! Handles of blocks. A handle is a number, never followed as a pointer, and no number is used twice: so one that was closed,
//! that is of another kind, or that was never given, is told.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::border::{missing, store};
use crate::outcome::{Problem, holdfast_code};

/// Set in each of them; none of a session's has it.
const OF_BLOCKS: usize = 1 << (usize::BITS - 1);

/// Tables are divided into so many, by the number: threads with handles of their own are not in each other's way.
const SHARDS: usize = 16;

static LAST: AtomicUsize = AtomicUsize::new(0);

/// What C knows by handles of this type.
pub trait Handle: Sized + 'static {
    /// What one stands for.
    type Object: Send + Sync + 'static;

    /// What it is called.
    const WHAT: &'static str;

    /// Those that are open.
    fn table() -> &'static Table<Self::Object>;
}

/// Those that are open.
pub struct Table<T>([Shard<T>; SHARDS]);

type Shard<T> = RwLock<BTreeMap<usize, Arc<T>>>;

impl<T> Table<T> {
    pub const fn new() -> Self {
        Self([const { RwLock::new(BTreeMap::new()) }; SHARDS])
    }

    fn shard(&self, number: usize) -> &Shard<T> {
        &self.0[number % SHARDS]
    }

    fn read(&self, number: usize) -> RwLockReadGuard<'_, BTreeMap<usize, Arc<T>>> {
        self.shard(number).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, number: usize) -> RwLockWriteGuard<'_, BTreeMap<usize, Arc<T>>> {
        self.shard(number).write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives an object away as a handle.
///
/// # Safety
/// `into` is NULL, or a place for a handle.
pub unsafe fn give<H: Handle>(into: *mut *mut H, object: H::Object) -> Result<(), Problem> {
    let number = LAST.fetch_add(1, Relaxed).wrapping_add(1) | OF_BLOCKS;
    // SAFETY: the caller's.
    unsafe { store(into, std::ptr::without_provenance_mut(number))? };
    H::table().write(number).insert(number, Arc::new(object));
    Ok(())
}

/// Does something with a handle's object, which other threads may use meanwhile.
pub fn with<H: Handle, T>(
    handle: *const H,
    body: impl FnOnce(&H::Object) -> Result<T, Problem>,
) -> Result<T, Problem> {
    if handle.is_null() {
        return Err(missing(H::WHAT));
    }
    // Whoever closes it meanwhile takes it out of the table, and what is done with it here comes to its end.
    let object = H::table().read(handle.addr()).get(&handle.addr()).cloned();
    body(&*object.ok_or_else(closed::<H>)?)
}

/// Does something with the object of a handle that is for one thread at a time.
pub fn alone<H: Handle<Object = Mutex<O>>, O: 'static, T>(
    handle: *const H,
    body: impl FnOnce(&mut O) -> Result<T, Problem>,
) -> Result<T, Problem> {
    with(handle, |object| match object.try_lock() {
        Ok(mut object) => body(&mut object),
        Err(TryLockError::Poisoned(object)) => body(&mut object.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Problem {
            code: holdfast_code::HOLDFAST_ORDER,
            sentence: format!(
                "another call with this {} is not over; let each thread open its own, or take turns",
                H::WHAT
            ),
        }),
    })
}

/// Ends a handle. NULL is none.
pub fn close<H: Handle>(handle: *mut H) -> Result<(), Problem> {
    if handle.is_null() {
        return Ok(());
    }
    let object = H::table().write(handle.addr()).remove(&handle.addr());
    object.map(drop).ok_or_else(closed::<H>)
}

fn closed<H: Handle>() -> Problem {
    Problem {
        code: holdfast_code::HOLDFAST_INVALID,
        sentence: format!("the {} was closed, or is none; open another", H::WHAT),
    }
}

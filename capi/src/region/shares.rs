//! A thread's shares in regions. A handle is a number, never followed as a pointer: so one that was closed, that is another
//! thread's, or that was never given, is told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use client::objects::ReadError;
use client::{Region, Session, Transaction, TxnError, View};

use super::seated::Seated;
use super::session::holdfast_session;
use crate::outcome::{Problem, holdfast_code};

/// A handle's upper half is its thread's number, the lower half counts its thread's shares.
const HALF: u32 = usize::BITS / 2;

static THREADS: AtomicUsize = AtomicUsize::new(1);

thread_local! {
    static SHARES: RefCell<Shares> = RefCell::new(Shares {
        thread: THREADS.fetch_add(1, Relaxed),
        last: 0,
        open: HashMap::new(),
    });
}

/// What ends with its thread: sessions are given back then.
struct Shares {
    thread: usize,
    last: usize,
    open: HashMap<usize, Share>,
}

/// A share in a region.
pub struct Share {
    held: Held,
    /// What was handed out last.
    pub(super) content: Vec<u8>,
}

enum Held {
    Seated(Seated),
    View(View),
}

/// Keeps a share of this thread, and gives its handle.
pub fn keep(share: Share) -> Result<*mut holdfast_session, Problem> {
    with_all(|shares| {
        shares.last += 1;
        let number = shares.thread << HALF | shares.last;
        if number >> HALF != shares.thread || shares.last >> HALF != 0 {
            return Err(ordered(
                "there were more threads or sessions than can be told apart; start the program again",
            ));
        }
        shares.open.insert(number, share);
        Ok(std::ptr::without_provenance_mut(number))
    })
}

/// Does something with a share.
pub fn with<T>(
    handle: *mut holdfast_session,
    body: impl FnOnce(&mut Share) -> Result<T, Problem>,
) -> Result<T, Problem> {
    with_all(|shares| {
        shares.check(handle)?;
        let share = shares.open.get_mut(&handle.addr()).ok_or_else(closed)?;
        if share.is_mine() { body(share) } else { Err(TxnError::Forked.into()) }
    })
}

/// Takes a share back from its handle; `None` for NULL.
pub fn take(handle: *mut holdfast_session) -> Result<Option<Share>, Problem> {
    if handle.is_null() {
        return Ok(None);
    }
    with_all(|shares| {
        shares.check(handle)?;
        shares.open.remove(&handle.addr()).map(Some).ok_or_else(closed)
    })
}

fn with_all<T>(body: impl FnOnce(&mut Shares) -> Result<T, Problem>) -> Result<T, Problem> {
    let shares = SHARES.try_with(|shares| match shares.try_borrow_mut() {
        Ok(mut shares) => body(&mut shares),
        Err(_) => Err(ordered("another call of this thread is not over; make none in a signal handler")),
    });
    shares.unwrap_or_else(|_| Err(ordered("the thread is at its end, and its sessions are closed")))
}

fn ordered(sentence: &str) -> Problem {
    Problem { code: holdfast_code::HOLDFAST_ORDER, sentence: sentence.to_owned() }
}

fn closed() -> Problem {
    Problem {
        code: holdfast_code::HOLDFAST_INVALID,
        sentence: "the session was closed, or is none; attach another".to_owned(),
    }
}

impl Shares {
    /// Whether it can be a handle of this thread's.
    fn check(&self, handle: *mut holdfast_session) -> Result<(), Problem> {
        let thread = handle.addr() >> HALF;
        if handle.is_null() || thread == 0 || thread >= THREADS.load(Relaxed) {
            return Err(closed());
        }
        if thread == self.thread {
            return Ok(());
        }
        Err(Problem {
            code: holdfast_code::HOLDFAST_ELSEWHERE,
            sentence: "the session is another thread's; each thread attaches for itself".to_owned(),
        })
    }
}

impl Share {
    pub fn of_session(session: Session) -> Self {
        Self { held: Held::Seated(Seated::new(session)), content: Vec::new() }
    }

    pub fn of_view(view: View) -> Self {
        Self { held: Held::View(view), content: Vec::new() }
    }

    fn is_mine(&mut self) -> bool {
        match &mut self.held {
            Held::Seated(seated) => seated.is_mine(),
            // A region that was given up is no reason to say that it is the parent's.
            Held::View(view) => !matches!(view.region(), Err(TxnError::Forked)),
        }
    }

    /// Whether it is a view, which only reads.
    pub fn only_reads(&self) -> bool {
        matches!(self.held, Held::View(_))
    }

    /// The session of one that may change something.
    pub fn seated(&mut self) -> Result<&mut Seated, Problem> {
        match &mut self.held {
            Held::Seated(seated) => Ok(seated),
            Held::View(_) => Err(ordered("a view only reads; attach a session to change something")),
        }
    }

    /// The transaction that is open, if one is.
    pub fn transaction(&mut self) -> Option<&mut Transaction<'static, 'static>> {
        match &mut self.held {
            Held::Seated(seated) => seated.transaction(),
            Held::View(_) => None,
        }
    }

    /// Reads in the transaction that is open, or else what was committed last.
    pub fn read<T>(
        &mut self,
        within: impl FnOnce(&mut Transaction<'static, 'static>) -> Result<T, TxnError>,
        committed: impl FnOnce(&'static Region) -> Result<T, ReadError>,
    ) -> Result<T, Problem> {
        if let Some(transaction) = self.transaction() {
            return Ok(within(transaction)?);
        }
        Ok(committed(self.region()?)?)
    }

    /// The region, outside of a transaction.
    pub fn region(&mut self) -> Result<&'static Region, Problem> {
        match &mut self.held {
            Held::Seated(seated) => Ok(seated.session()?.region()?),
            Held::View(view) => Ok(view.region()?),
        }
    }

    /// Makes changes in the transaction that is open, or else in one of their own.
    pub fn change<T>(
        &mut self,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<T, Problem> {
        let seated = self.seated()?;
        if let Some(transaction) = seated.transaction() {
            return Ok(changes(transaction)?);
        }
        Ok(seated.session()?.change(changes)?)
    }

    /// Gives it back.
    pub fn end(self) -> Result<(), Problem> {
        match self.held {
            Held::Seated(seated) => seated.detach(),
            Held::View(_) => Ok(()),
        }
    }
}

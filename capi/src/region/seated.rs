//! A session together with the transaction that is open on it, which borrows it.

use std::ptr::NonNull;

use client::{Session, SessionError, Transaction};
use common::sys::fork_mark::ForkMark;

use crate::outcome::{Problem, holdfast_code};

/// A session, and the transaction that is open on it.
pub struct Seated {
    open: Option<Transaction<'static, 'static>>,
    /// From a box, and this struct's own. As long as `open` is there, it alone reaches the session.
    session: NonNull<Session>,
    mark: ForkMark,
}

impl Seated {
    pub fn new(session: Session) -> Self {
        let session = NonNull::from(Box::leak(Box::new(session)));
        Self { open: None, session, mark: ForkMark::new() }
    }

    /// Whether this is still the process that attached.
    pub fn is_mine(&mut self) -> bool {
        self.mark.is_mine()
    }

    /// The transaction that is open.
    pub fn transaction(&mut self) -> Option<&mut Transaction<'static, 'static>> {
        self.open.as_mut()
    }

    /// The session, while no transaction is open.
    pub fn session(&mut self) -> Result<&mut Session, Problem> {
        if self.open.is_some() {
            return Err(ordered("a transaction is open; commit it or roll it back first"));
        }
        // SAFETY: from a box, not freed before this is dropped; nobody else refers to it, as no transaction is open.
        Ok(unsafe { self.session.as_mut() })
    }

    /// Opens a transaction.
    pub fn begin(
        &mut self,
        begin: impl FnOnce(&'static mut Session) -> Result<Transaction<'static, 'static>, SessionError>,
    ) -> Result<(), Problem> {
        self.session()?;
        // SAFETY: as above; what borrows it from here on is the transaction, which goes before the session does.
        self.open = Some(begin(unsafe { self.session.as_mut() })?);
        Ok(())
    }

    /// Ends the transaction: all of it, or nothing.
    pub fn finish(&mut self, commit: bool) -> Result<(), Problem> {
        let transaction = self.open.take().ok_or_else(|| ordered("no transaction is open; begin one"))?;
        if commit {
            transaction.commit()?;
        }
        Ok(())
    }

    /// Rolls back what is open, and gives the slot back.
    pub fn detach(mut self) -> Result<(), Problem> {
        let forked = !self.is_mine();
        self.let_go();
        // SAFETY: from a box, and nobody refers to it any more; this struct is not dropped.
        let session = *unsafe { Box::from_raw(self.session.as_ptr()) };
        std::mem::forget(self);
        if forked { Ok(()) } else { session.detach().map_err(Into::into) }
    }

    fn let_go(&mut self) {
        let open = self.open.take();
        if !self.mark.is_mine() {
            // It is the parent's, and so is what it would put back.
            std::mem::forget(open);
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.let_go();
        // SAFETY: from a box, and nobody refers to it any more.
        drop(unsafe { Box::from_raw(self.session.as_ptr()) });
    }
}

fn ordered(sentence: &str) -> Problem {
    Problem { code: holdfast_code::HOLDFAST_ORDER, sentence: sentence.to_owned() }
}

//! What users have sent, carried into another region.

use crate::ids::Offset;
use crate::limits::USER_ROWS;
use crate::objects::{Folder, ReadError};
use crate::region::Region;
use crate::slots::Counter;
use crate::tally::{Account, FOLDER, ROWS, Row, Sent, account};
use crate::txn::{Seat, Transaction, TxnError};

/// Whether a map in this folder has what users have sent: such maps are carried by [`carry`], since where a user
/// without a row is counted depends on the region.
pub fn is_kept_in(folder: &str, map: &str) -> bool {
    folder == FOLDER && (map == ROWS || map.starts_with("more-"))
}

/// Gives every user of `from` an account in the seat's region, rows in the same order, and counts there what all slots
/// have counted. The seat's region has no users yet.
///
/// # Errors
/// [`TxnError`]; what was carried before stays.
pub fn carry(from: &Region, seat: &mut Seat<'_>) -> Result<(), TxnError> {
    let folder = match Folder::open(from, FOLDER) {
        Err(ReadError::NotFound) => return Ok(()),
        folder => folder?,
    };
    let mut in_rows = vec![None; USER_ROWS];
    let mut others = Vec::new();
    for (name, _) in folder.list(from)? {
        if !is_kept_in(FOLDER, &name) {
            continue;
        }
        for (user, value) in folder.open_map(from, &name)?.entries(from)? {
            let user = String::from_utf8(user).map_err(|_| TxnError::Damaged)?;
            if name == ROWS {
                let row = Row::read(&value)?;
                in_rows[row.index()] = Some((user, row.sum(from)));
            } else {
                others.push((user, Sent::read(&value)?));
            }
        }
    }
    // First those with a row: the others come to share maps because none is left.
    in_rows.into_iter().flatten().chain(others).try_for_each(|(user, sent)| enroll_with(seat, &user, sent))
}

/// Gives a user who has no account yet one with what was counted elsewhere; the seat's own counters stay as they are.
///
/// # Errors
/// [`TxnError`]; nothing was counted then.
pub fn enroll_with(seat: &mut Seat<'_>, user: &str, sent: Sent) -> Result<(), TxnError> {
    let account = account(seat, user)?;
    let mut txn = seat.begin()?;
    match account {
        Account::Row(row) => txn.add_sent(row, sent)?,
        Account::Shared(map) => txn.map(map)?.put(user.as_bytes(), &sent.to_bytes()).map(drop)?,
    }
    txn.commit()
}

/// Counts messages of a user that no process of this region has counted: in the seat's counters and in the user's account.
///
/// # Errors
/// [`TxnError`]; nothing was counted then.
pub fn credit(seat: &mut Seat<'_>, user: &str, sent: Sent) -> Result<(), TxnError> {
    let account = account(seat, user)?;
    let mut txn = seat.begin()?;
    txn.add(Counter::Messages, sent.messages)?;
    txn.add(Counter::Bytes, sent.bytes)?;
    match account {
        Account::Row(row) => txn.add_sent(row, sent)?,
        Account::Shared(map) => txn.map(map)?.add_sent(user, sent)?,
    }
    txn.commit()
}

impl Transaction<'_, '_> {
    /// Adds to what the owner has counted for the user of a row.
    pub(crate) fn add_sent(&mut self, row: Row, sent: Sent) -> Result<(), TxnError> {
        let offset = row.offset(self.seat.region, self.seat.owner.slot);
        let counted = &self.seat.tally.cells[row.index()].counted;
        self.seat.progress.rows.add(row);
        self.attempt(|txn| {
            for (index, (word, amount)) in counted.iter().zip([sent.messages, sent.bytes]).enumerate() {
                let offset = Offset(offset.0 + (index * size_of::<u64>()) as u64);
                let sum = word.load(std::sync::atomic::Ordering::Relaxed).wrapping_add(amount);
                txn.seat.log.change(offset, word, sum)?;
            }
            Ok(())
        })
    }
}

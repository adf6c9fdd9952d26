//! What users have sent: a row for each name, and in each row a cell for each slot that nobody else writes. A total is
//! the sum of the cells. So a thousand workers that serve one user never wait for each other.
//!
//! The map `/users/rows` has the number of a name's row. Users beyond [`USER_ROWS`] share maps in stripes by their name's hash, each
//! under its own lock: `/users/more-0` to `more-15`, from name to messages and bytes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use crate::ids::{Offset, SlotIndex};
use crate::layout::{Cell, Tally};
use crate::limits::{MAX_USER, USER_ROWS};
use crate::objects::map::LockedMap;
use crate::objects::{Folder, Map, ReadError};
use crate::region::Region;
use crate::slots::Counter;
use crate::txn::{Seat, Transaction, TxnError};

mod carrying;

pub use carrying::{carry, credit, enroll_with, is_kept_in};

const FOLDER: &str = "users";
const ROWS: &str = "rows";

/// Maps for users without a row.
const STRIPES: u64 = 16;

/// A user's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row(u16);

/// Where a user is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// In a row, each slot in its own cell.
    Row(Row),
    /// In a map with others, under its lock.
    Shared(Map),
}

/// What a user has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Row {
    /// The row of this number, if there is one.
    pub fn new(number: usize) -> Option<Self> {
        (number < USER_ROWS).then_some(Self(number as u16))
    }

    /// Its number.
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// Where a slot's cell of the row lies.
    pub(crate) fn offset(self, region: &Region, slot: SlotIndex) -> Offset {
        Offset(region.tally_offset(slot).0 + (self.index() * size_of::<Cell>()) as u64)
    }

    /// A row's number as the map of rows has it.
    ///
    /// # Errors
    /// [`ReadError::Damaged`].
    pub fn read(number: &[u8]) -> Result<Self, ReadError> {
        let number = number.try_into().map(u16::from_le_bytes).map_err(|_| ReadError::Damaged)?;
        Self::new(number.into()).ok_or(ReadError::Damaged)
    }

    /// What all slots together have counted, as published. Wrapping, since the words are allegations.
    pub fn sum(self, region: &Region) -> Sent {
        let slots = (0..region.geometry().slot_count).map(SlotIndex);
        slots.filter_map(|slot| region.tally(slot)).fold(Sent::default(), |sum, tally| {
            let [messages, bytes] = &tally.cells[self.index()].published;
            Sent {
                messages: sum.messages.wrapping_add(messages.load(Relaxed)),
                bytes: sum.bytes.wrapping_add(bytes.load(Relaxed)),
            }
        })
    }
}

/// Some of the rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rows(u64);

const _: () = assert!(USER_ROWS == u64::BITS as usize, "a bit for each row");

impl Rows {
    pub(crate) const NONE: Self = Self(0);

    #[inline]
    pub(crate) fn add(&mut self, row: Row) {
        self.0 |= 1 << row.0;
    }

    /// Does something for each.
    #[inline]
    pub(crate) fn each(self, mut deed: impl FnMut(Row)) {
        let mut left = self.0;
        while left != 0 {
            deed(Row(left.trailing_zeros() as u16));
            left &= left - 1;
        }
    }
}

impl Tally {
    /// Owner after commit: shows what was counted in one row.
    #[inline]
    pub fn publish(&self, row: Row) {
        self.cells[row.index()].publish();
    }

    /// Repair: shows what was counted in every row.
    pub fn publish_all(&self) {
        self.cells.iter().for_each(Cell::publish);
    }
}

impl Cell {
    #[inline]
    fn publish(&self) {
        for (shown, counted) in self.published.iter().zip(&self.counted) {
            shown.store(counted.load(Relaxed), Relaxed);
        }
    }
}

/// Whether an undo record may name these bytes: they are what this slot has counted, in one of its cells.
pub(crate) fn is_own_cell(region: &Region, slot: SlotIndex, offset: Offset, length: usize) -> bool {
    let within = offset.0.wrapping_sub(region.tally_offset(slot).0);
    let (cell, counted) = (size_of::<Cell>() as u64, std::mem::offset_of!(Cell, published) as u64);
    within < size_of::<Tally>() as u64 && within % cell + length as u64 <= counted
}

/// Where the user of this name is counted, made if need be.
///
/// # Errors
/// [`TxnError`]: nothing was changed.
pub fn account(seat: &mut Seat<'_>, user: &str) -> Result<Account, TxnError> {
    if user.len() > MAX_USER {
        return Err(TxnError::TooLong);
    }
    let region = seat.region();
    match find(region, user) {
        Ok(Some(account)) => Ok(account),
        Ok(None) | Err(ReadError::NotFound) => enroll(seat, user),
        Err(error) => Err(error.into()),
    }
}

fn find(region: &Region, user: &str) -> Result<Option<Account>, ReadError> {
    let folder = Folder::open(region, FOLDER)?;
    let rows = folder.open_map(region, ROWS)?;
    // Asked first: whoever has no row once none is left will never have one. The other way round it could have been
    // given the last one meanwhile.
    let none_left = Row::new(rows.len(region)? as usize).is_none();
    if let Some(number) = rows.get(region, user.as_bytes())? {
        return Row::read(&number).map(Account::Row).map(Some);
    }
    none_left.then(|| folder.open_map(region, &stripe_of(region, user)).map(Account::Shared)).transpose()
}

/// The name of the map that a user without a row shares.
fn stripe_of(region: &Region, user: &str) -> String {
    format!("more-{}", region.hash_of(user.as_bytes()) % STRIPES)
}

/// Gives a name its row, or where there is none left the map that it shares.
fn enroll(seat: &mut Seat<'_>, user: &str) -> Result<Account, TxnError> {
    let stripe = stripe_of(seat.region(), user);
    let mut txn = seat.begin()?;
    let folder = txn.open_or_create_folder(FOLDER)?;
    let rows = txn.open_or_create_map(folder, ROWS)?;
    let mut locked = txn.map(rows)?;
    // Another may have come first.
    let account = match (locked.get(user.as_bytes())?, Row::new(locked.len() as usize)) {
        (Some(number), _) => Account::Row(Row::read(&number)?),
        (None, Some(row)) => {
            locked.put(user.as_bytes(), &row.0.to_le_bytes())?;
            Account::Row(row)
        }
        (None, None) => Account::Shared(txn.open_or_create_map(folder, &stripe)?),
    };
    txn.commit()?;
    Ok(account)
}

impl Transaction<'_, '_> {
    /// Counts a message of a user: in the owner's counters and in the user's account. A transaction may count several, of
    /// several users; but one that goes back to a checkpoint counts again what the journal has, and that is one record of a
    /// transaction at most.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn count_message(&mut self, account: Account, user: &str, bytes: u64) -> Result<(), TxnError> {
        self.add(Counter::Messages, 1)?;
        self.add(Counter::Bytes, bytes)?;
        match account {
            Account::Row(row) => self.count_for(row, bytes),
            Account::Shared(map) => self.map(map)?.add_sent(user, Sent { messages: 1, bytes }),
        }
    }
}

impl LockedMap<'_, '_, '_> {
    /// Adds to what a user without a row has sent.
    fn add_sent(&mut self, user: &str, more: Sent) -> Result<(), TxnError> {
        let mut sent = self.get(user.as_bytes())?.map_or(Ok(Sent::default()), |sent| Sent::read(&sent))?;
        sent.messages = sent.messages.wrapping_add(more.messages);
        sent.bytes = sent.bytes.wrapping_add(more.bytes);
        self.put(user.as_bytes(), &sent.to_bytes()).map(drop)
    }
}

impl Sent {
    fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.messages) | u128::from(self.bytes) << 64).to_le_bytes()
    }

    /// What a map of users without a row has for one.
    ///
    /// # Errors
    /// [`ReadError::Damaged`].
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let word = bytes.try_into().map(u128::from_le_bytes).map_err(|_| ReadError::Damaged)?;
        Ok(Self { messages: word as u64, bytes: (word >> 64) as u64 })
    }
}

/// What all users have sent, as last committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserTotals {
    /// By name.
    pub users: BTreeMap<String, Sent>,
    /// False where a map was being changed all the time, by a process that is stopped: its users are missing.
    pub complete: bool,
}

/// What every user has sent. Needs nothing but to read the region.
///
/// # Errors
/// [`ReadError`]; a region without users has none, which is no error.
pub fn totals(region: &Region) -> Result<UserTotals, ReadError> {
    let mut totals = UserTotals { users: BTreeMap::new(), complete: true };
    let folder = match Folder::open(region, FOLDER) {
        Err(ReadError::NotFound) => return Ok(totals),
        folder => folder?,
    };
    for (name, _) in folder.list(region)? {
        let entries = match folder.open_map(region, &name)?.entries(region) {
            Err(ReadError::Busy) => {
                totals.complete = false;
                continue;
            }
            entries => entries?,
        };
        for (user, value) in entries {
            let user = String::from_utf8(user).map_err(|_| ReadError::Damaged)?;
            let sent = if name == ROWS { Row::read(&value)?.sum(region) } else { Sent::read(&value)? };
            totals.users.insert(user, sent);
        }
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::slots;

    fn seat(region: &Region, index: u32) -> Seat<'_> {
        let owner = slots::owner(SlotIndex(index), Generation(1));
        region.slot(owner.slot).unwrap().reserve(owner.generation, 1);
        Seat::take(region, owner).unwrap()
    }

    fn send(seat: &mut Seat<'_>, user: &str, bytes: u64) {
        let account = account(seat, user).unwrap();
        let mut txn = seat.begin().unwrap();
        txn.count_message(account, user, bytes).unwrap();
        txn.commit().unwrap();
    }

    #[test]
    fn users_are_counted_over_all_slots_with_a_row_and_without() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        assert!(totals(&region).unwrap().users.is_empty());
        let (mut one, mut other) = (seat(&region, 1), seat(&region, 2));
        for number in 0..USER_ROWS as u64 + 40 {
            send(&mut one, &format!("user {number}"), number);
            send(&mut other, &format!("user {number}"), 1);
        }
        let totals = totals(&region).unwrap().users;
        assert_eq!(totals.len(), USER_ROWS + 40);
        for (user, sent) in &totals {
            let number: u64 = user[5..].parse().unwrap();
            assert_eq!(*sent, Sent { messages: 2, bytes: number + 1 }, "{user}");
        }
        assert_eq!(totals.values().map(|sent| sent.messages).sum::<u64>(), region.totals().messages);
    }

    #[test]
    fn one_transaction_counts_for_several_users() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        let mut seat = seat(&region, 1);
        let users: Vec<_> = (0..USER_ROWS + 2).map(|number| format!("user {number}")).collect();
        let accounts: Vec<_> = users.iter().map(|user| account(&mut seat, user).unwrap()).collect();
        let several = [0, 1, 1, USER_ROWS - 1, USER_ROWS, USER_ROWS + 1];
        let mut txn = seat.begin().unwrap();
        several.iter().for_each(|user| txn.count_message(accounts[*user], &users[*user], 3).unwrap());
        txn.commit().unwrap();
        let shown = totals(&region).unwrap().users;
        for (number, user) in users.iter().enumerate().filter(|(number, _)| several.contains(number)) {
            let messages = if number == 1 { 2 } else { 1 };
            assert_eq!(shown[user], Sent { messages, bytes: 3 * messages }, "{user}");
        }
        assert_eq!(shown.values().map(|sent| sent.messages).sum::<u64>(), region.totals().messages);
    }

    #[test]
    fn what_is_not_committed_is_not_counted() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        let mut seat = seat(&region, 1);
        send(&mut seat, "anna", 5);
        let account = account(&mut seat, "anna").unwrap();
        let mut txn = seat.begin().unwrap();
        txn.count_message(account, "anna", 7).unwrap();
        assert_eq!(totals(&region).unwrap().users["anna"], Sent { messages: 1, bytes: 5 });
        drop(txn);
        send(&mut seat, "anna", 1);
        assert_eq!(totals(&region).unwrap().users["anna"], Sent { messages: 2, bytes: 6 });
    }
}

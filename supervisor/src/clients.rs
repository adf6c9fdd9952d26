//! Who is attached: for each slot that another program has, its process, by whose end alone its death is known, and the
//! connection, whose end means little.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use common::error::{Context, Result};
use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::places::REGION;
use common::region::Region;
use common::slots::{State, owner};
use common::sys::peer::Process;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::control::ConnectionId;

mod register;
use register::{Register, Sign};

/// Ends that are looked at together.
const AT_A_TIME: usize = 64;

/// An attached program.
#[derive(Debug)]
struct Client {
    owner: Owner,
    pid: Pid,
    /// None where it was taken over from a former supervisor and cannot be known: then its lock says whether it lives.
    process: Option<Process>,
    connection: Option<ConnectionId>,
}

/// Everybody who is attached.
#[derive(Debug)]
pub struct Clients {
    register: Register,
    clients: BTreeMap<SlotIndex, Client>,
    /// The processes, so that a thousand of them cost one descriptor to wait for.
    ends: Epoll,
}

/// One whom a former supervisor left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heritage {
    /// Its slot.
    pub owner: Owner,
    /// Whether it lives.
    pub lives: bool,
}

impl Clients {
    /// Nobody yet.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn new(register: File) -> Result<Self> {
        let doing = || "cannot watch attached programs".to_owned();
        Ok(Self {
            register: Register::new(register).context(doing)?,
            clients: BTreeMap::new(),
            ends: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(doing)?,
        })
    }

    /// Takes over whom a former supervisor of this region left, dead or alive.
    pub fn inherit(&mut self, region: &Region) -> Vec<Heritage> {
        let mut heritage = Vec::new();
        for (index, slot) in region.slots() {
            let Some(entry) = self.register.read(index).filter(|entry| entry.epoch == region.epoch()) else {
                continue;
            };
            let theirs = owner(index, entry.owner.generation);
            // One that has not taken its slot yet will find that it cannot any more.
            slot.shift(theirs.generation, State::Reserved, State::Free);
            let (generation, state) = slot.standing();
            if generation != theirs.generation || state == Some(State::Free) || slot.left_cleanly(generation)
            {
                continue;
            }
            let process = match self.register.look_for(&entry) {
                Sign::Alive(process) if state != Some(State::Dead) => Some(process),
                Sign::Kept if state != Some(State::Dead) => None,
                _ => {
                    heritage.push(Heritage { owner: theirs, lives: false });
                    continue;
                }
            };
            // Where its end cannot be waited for, it is looked for.
            if self.insert(theirs, entry.pid, process, None).is_err() {
                let _ = self.insert(theirs, entry.pid, None, None);
            }
            heritage.push(Heritage { owner: theirs, lives: true });
        }
        heritage
    }

    /// A process gets a slot. Gives the descriptor that is to go to it.
    ///
    /// # Errors
    /// What the kernel reports; nobody is attached then.
    pub fn join(
        &mut self,
        owner: Owner,
        epoch: u64,
        process: Process,
        connection: ConnectionId,
    ) -> io::Result<File> {
        self.register.enter(owner, epoch, &process)?;
        let held = self.register.lock(owner.slot)?;
        self.insert(owner, process.pid, Some(process), Some(connection))?;
        Ok(held)
    }

    fn insert(
        &mut self,
        owner: Owner,
        pid: Pid,
        process: Option<Process>,
        connection: Option<ConnectionId>,
    ) -> io::Result<()> {
        if let Some(process) = &process {
            let word = u64::from(owner.generation.0) << 32 | u64::from(owner.slot.0);
            self.ends.add(process, EpollEvent::new(EpollFlags::EPOLLIN, word))?;
        }
        self.clients.insert(owner.slot, Client { owner, pid, process, connection });
        Ok(())
    }

    /// The same process has a connection again. False where it is another one, or has no such slot.
    pub fn rejoin(&mut self, owner: Owner, process: Process, connection: ConnectionId) -> bool {
        let Some(client) = self.clients.get_mut(&owner.slot).filter(|client| client.owner == owner) else {
            return false;
        };
        let began = client.process.as_ref().map(|known| known.began);
        if client.pid != process.pid || began.is_some_and(|began| began != process.began) {
            return false;
        }
        client.connection = Some(connection);
        if client.process.is_none() {
            return self.insert(owner, process.pid, Some(process), Some(connection)).is_ok();
        }
        true
    }

    /// A connection is gone. Gives whose it was.
    pub fn disconnected(&mut self, connection: ConnectionId) -> Option<Owner> {
        let mut clients = self.clients.values_mut();
        let client = clients.find(|client| client.connection == Some(connection))?;
        client.connection = None;
        Some(client.owner)
    }

    /// Whether a slot is this connection's.
    pub fn has(&self, owner: Owner, connection: ConnectionId) -> bool {
        let client = self.clients.get(&owner.slot);
        client.is_some_and(|client| client.owner == owner && client.connection == Some(connection))
    }

    /// The slot is not its any more. Gives the process and its connection.
    pub fn remove(&mut self, owner: Owner) -> Option<(Pid, Option<ConnectionId>)> {
        let entry = self.clients.get(&owner.slot).filter(|client| client.owner == owner)?;
        if let Some(process) = &entry.process {
            let _ = self.ends.delete(process);
        }
        self.clients.remove(&owner.slot).map(|client| (client.pid, client.connection))
    }

    /// Those whose processes have ended, some of them.
    pub fn ended(&self) -> Vec<Owner> {
        let mut events = [EpollEvent::empty(); AT_A_TIME];
        let count = self.ends.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let words = events[..count].iter().map(EpollEvent::data);
        words.map(|word| owner(SlotIndex(word as u32), Generation((word >> 32) as u32))).collect()
    }

    /// Those without a connection: they may have left without a word.
    pub fn unconnected(&self) -> Vec<Owner> {
        let clients = self.clients.values().filter(|client| client.connection.is_none());
        clients.map(|client| client.owner).collect()
    }

    /// Whether one without a connection is gone, as far as no event says so: nobody keeps what came with the slot, and
    /// the process is not known, or has the region mapped no more, since it executes another program.
    pub fn is_gone(&self, owner: Owner, region: &File) -> bool {
        let Some(client) = self.clients.get(&owner.slot).filter(|client| client.owner == owner) else {
            return false;
        };
        let has_region = |process: &Process| process.may_have_mapped(region, REGION).unwrap_or(true);
        !self.register.is_kept(owner.slot) && !client.process.as_ref().is_some_and(has_region)
    }
}

impl AsFd for Clients {
    /// Readable once a process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.0.as_fd()
    }
}

//! Who is attached: for each slot that another program has, its process, by whose end alone its death is known, and the
//! connection, whose end means little.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use common::error::{self, Context};
use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::places::REGION;
use common::region::Region;
use common::slots::{State, owner};
use common::sys::peer::Process;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use crate::control::ConnectionId;
use crate::upgrade::luggage::{Arrived, Luggage, Packed};

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

/// Everybody who is attached, as it is handed to a successor in this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedClients(Vec<PackedClient>);

#[derive(Debug, Serialize, Deserialize)]
struct PackedClient {
    owner: Owner,
    pid: Pid,
    /// A hold on it, and when it began.
    process: Option<(Packed, u64)>,
    connection: Option<ConnectionId>,
}

impl PackedClients {
    /// Everybody who is attached, as it stands in this register.
    ///
    /// # Errors
    /// A hold that has not come along; what the kernel reports.
    pub fn unpack(self, register: File, arrived: &mut Arrived) -> error::Result<Clients> {
        let mut clients = Clients::new(register)?;
        for PackedClient { owner, pid, process, connection } in self.0 {
            let held = match process {
                Some((pidfd, began)) => Some(Process::resumed(arrived.take(pidfd)?, pid, began)),
                None => None,
            };
            let inserted = clients.insert(owner, pid, held, connection);
            inserted.context(|| "cannot watch attached programs".to_owned())?;
        }
        Ok(clients)
    }
}

/// One whom a former supervisor left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heritage {
    /// Its slot.
    pub owner: Owner,
    /// Whether it lives.
    pub lives: bool,
}

/// Somebody is not who he says he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger;

impl Clients {
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedClients {
        let packed = self.clients.values().map(|client| PackedClient {
            owner: client.owner,
            pid: client.pid,
            process: client.process.as_ref().map(|process| (luggage.pack(process), process.began)),
            connection: client.connection,
        });
        PackedClients(packed.collect())
    }

    /// Nobody yet.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn new(register: File) -> error::Result<Self> {
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
        for (index, slot) in region.slots().take(self.register.written()) {
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
            if process.is_none() {
                // Nor may anybody be asked about it by its pid, which may mean another one here.
                slot.knell.take_down();
            }
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

    /// The same process has a connection again. Gives the one that it had.
    ///
    /// Where the process is not known, this may be another one that has its pid by now: it gets the connection, by which
    /// nothing can be lost, but its end is not the client's.
    ///
    /// # Errors
    /// Where it is another one, or has no such slot.
    pub fn rejoin(
        &mut self,
        owner: Owner,
        process: &Process,
        connection: ConnectionId,
    ) -> Result<Option<ConnectionId>, Stranger> {
        let client = self.clients.get_mut(&owner.slot).filter(|client| client.owner == owner);
        let client = client.ok_or(Stranger)?;
        let began = client.process.as_ref().map(|known| known.began);
        if client.pid != process.pid || began.is_some_and(|began| began != process.began) {
            return Err(Stranger);
        }
        Ok(client.connection.replace(connection))
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

    /// The connections that they have.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.clients.values().filter_map(|client| client.connection).collect()
    }

    /// Those without a connection: they may have left without a word.
    pub fn unconnected(&self) -> Vec<Owner> {
        let clients = self.clients.values().filter(|client| client.connection.is_none());
        clients.map(|client| client.owner).collect()
    }

    /// Those with a connection whose processes are not known: no event says that they have ended.
    pub fn unwatched(&self) -> Vec<Owner> {
        let unwatched = |client: &&Client| client.connection.is_some() && client.process.is_none();
        self.clients.values().filter(unwatched).map(|client| client.owner).collect()
    }

    /// Whether one is gone, as far as no event says so: nobody keeps what came with the slot, and
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use common::sys::peer::Peer;

    use super::*;

    fn myself() -> Process {
        let (one, _other) = UnixStream::pair().unwrap();
        Process::at(one.as_fd(), &Peer::of(one.as_fd()).unwrap()).unwrap()
    }

    fn somebody() -> Owner {
        owner(SlotIndex(3), Generation(7))
    }

    #[test]
    fn who_connects_again_gives_up_the_former_connection() {
        let mut clients = Clients::new(tempfile::tempfile().unwrap()).unwrap();
        let (first, second) = (ConnectionId(1), ConnectionId(2));
        clients.insert(somebody(), myself().pid, Some(myself()), Some(first)).unwrap();
        assert_eq!(clients.rejoin(somebody(), &myself(), second), Ok(Some(first)));
        assert!(clients.has(somebody(), second) && !clients.has(somebody(), first));
        assert_eq!(clients.disconnected(first), None, "its end means nothing any more");
        let later = owner(SlotIndex(3), Generation(8));
        assert_eq!(clients.rejoin(later, &myself(), second), Err(Stranger));
    }

    #[test]
    fn a_process_that_is_not_known_is_not_taken_for_the_next_that_has_its_pid() {
        let mut clients = Clients::new(tempfile::tempfile().unwrap()).unwrap();
        let region = tempfile::tempfile().unwrap();
        let connection = ConnectionId(1);
        clients.insert(somebody(), myself().pid, None, None).unwrap();
        assert_eq!(clients.rejoin(somebody(), &myself(), connection), Ok(None));
        assert_eq!((clients.unconnected(), clients.unwatched()), (vec![], vec![somebody()]));
        assert!(clients.is_gone(somebody(), &region), "nobody keeps what came with the slot, whoever lives");
    }
}

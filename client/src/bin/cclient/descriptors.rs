//! Every connection is an open file; there must be enough of them before the first connection is made.

use common::error::{Context, Error, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files besides connections: the standard streams, one epoll per event thread, the journal, the resolver's.
const OTHERS: u64 = 64;

/// Makes room for this many connections by raising the soft limit of open files to the hard one.
pub fn make_room(connections: usize) -> Result<()> {
    let needed = connections as u64 + OTHERS;
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context(|| "cannot read the limit of open files".to_owned())?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        return Err(Error::usage(format!(
            "{connections} connections need {needed} open files but the hard limit is {hard}: raise it (ulimit -Hn, \
             LimitNOFILE=) or ask for at most {} connections",
            hard.saturating_sub(OTHERS)
        )));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .context(|| format!("cannot raise the limit of open files from {soft} to {hard}"))
}

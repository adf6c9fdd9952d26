//! Errors that come back every second are said once.

use std::collections::BTreeSet;
use std::io;

/// What has been complained about and not got better since.
#[derive(Debug, Default)]
pub struct Complaints {
    open: BTreeSet<(&'static str, String)>,
}

impl Complaints {
    /// Says that `doing` failed, unless it has been said already.
    pub fn raise(&mut self, doing: &'static str, error: &io::Error) {
        let kind = error.raw_os_error().map_or_else(|| error.to_string(), |errno| errno.to_string());
        if self.open.insert((doing, kind)) {
            log::error!("cannot {doing}: {error}; it is tried again until it works");
        }
    }

    /// Says that `doing` works again, if it was complained about.
    pub fn settle(&mut self, doing: &'static str) {
        let before = self.open.len();
        self.open.retain(|(about, _)| *about != doing);
        if self.open.len() < before {
            log::info!("can {doing} again");
        }
    }
}

//! The files of the journal that are counted, while a collector may be delivering them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use common::ids::Minute;
use common::journal::names::{self, Kind};
use common::journal::spool::{Entry, Spool};

/// The order in which they are looked for. The collector renames `M.dat` to `M.sent` or to `M.dat.refused`, which is therefore
/// looked for afterwards; what was refused may be put back meanwhile and delivered.
const LOOKS: [Kind; 5] = [Kind::Data, Kind::Sent, Kind::Refused, Kind::Data, Kind::Sent];

/// The files from one minute on, each once and whatever it is called by now.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// `M.dat`, or `M.sent` where there is no such file.
    own: BTreeMap<Minute, File>,
    /// `M.dat.refused`, which another file of that minute may stand beside.
    refused: BTreeMap<Minute, File>,
}

impl Files {
    /// Opens them.
    ///
    /// # Errors
    /// What reading the directory and open report.
    pub(super) fn find(spool: &Spool, from: Minute) -> io::Result<Self> {
        let mut found = Self::default();
        for kind in LOOKS {
            found.open_all(spool, from, kind)?;
        }
        Ok(found)
    }

    /// Every file with its minute.
    pub(super) fn each(&self) -> impl Iterator<Item = (Minute, &File)> {
        self.own.iter().chain(&self.refused).map(|(minute, file)| (*minute, file))
    }

    fn open_all(&mut self, spool: &Spool, from: Minute, kind: Kind) -> io::Result<()> {
        for entry in spool.entries()? {
            let Entry { minute, kind: found, .. } = entry?;
            if found == kind && minute >= from {
                self.open(spool, minute, kind)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, spool: &Spool, minute: Minute, kind: Kind) -> io::Result<()> {
        let (these, others) = match kind {
            Kind::Refused => (&mut self.refused, &self.own),
            _ => (&mut self.own, &self.refused),
        };
        if these.contains_key(&minute) {
            return Ok(());
        }
        let file = match spool.open_file(&names::name(minute, kind)) {
            // It has got another name this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let met = others.get(&minute).map(identity).transpose()?;
        if met != Some(identity(&file)?) {
            these.insert(minute, file);
        }
        Ok(())
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use Kind::{Data, Refused, Sent};

    fn contents(files: &Files) -> Vec<String> {
        let read = |(_, mut file): (Minute, &File)| {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        };
        let mut contents: Vec<_> = files.each().map(read).collect();
        contents.sort();
        contents
    }

    /// What is found if a file is renamed before each of the looks.
    fn find_while(moves: &[(usize, Kind, Kind)], begun_as: Kind) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        std::fs::write(directory.path().join(names::name(Minute(7), begun_as)), "seven").unwrap();
        let mut found = Files::default();
        for (look, kind) in LOOKS.into_iter().enumerate() {
            for (_, old, new) in moves.iter().filter(|(when, ..)| *when == look) {
                assert!(spool.rename(&names::name(Minute(7), *old), &names::name(Minute(7), *new)).unwrap());
            }
            found.open_all(&spool, Minute(0), kind).unwrap();
        }
        contents(&found)
    }

    #[test]
    fn a_file_that_gets_another_name_meanwhile_is_found_once() {
        for first in 0..=LOOKS.len() {
            for to in [Sent, Refused] {
                assert_eq!(find_while(&[(first, Data, to)], Data), ["seven"], "{first} {to:?}");
            }
            assert_eq!(find_while(&[(first, Refused, Data)], Refused), ["seven"], "{first}");
            for second in first..=LOOKS.len() {
                let moves = [(first, Refused, Data), (second, Data, Sent)];
                assert_eq!(find_while(&moves, Refused), ["seven"], "{moves:?}");
            }
        }
    }

    #[test]
    fn a_refused_file_counts_beside_another_of_its_minute() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        for name in
            ["7.dat", "7.sent", "7.dat.refused", "7.dat.refused.reason", "8.dat.lock", "6.dat.refused"]
        {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let files = Files::find(&spool, Minute(7)).unwrap();
        assert_eq!(contents(&files), ["7.dat", "7.dat.refused"]);
    }
}

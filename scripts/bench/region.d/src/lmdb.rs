//! LMDB's side: as fast as it goes, without any write to a disk.

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, RoTxn, WithTls};

use crate::keys::{self, VALUE};

/// An environment on tmpfs with one database.
pub struct Lmdb {
    env: Env,
    database: Database<Bytes, Bytes>,
    _directory: tempfile::TempDir,
}

impl Lmdb {
    /// With the first so many keys.
    pub fn filled(entries: u64) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
        let mut options = EnvOpenOptions::new();
        options.map_size(64 << 20);
        // SAFETY: the directory is new and this process's alone; without syncs a power cut would lose the data, which
        // is what is compared: the region is in memory too.
        let env = unsafe {
            options.flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP);
            options.open(directory.path()).expect("an environment")
        };
        let mut txn = env.write_txn().expect("a transaction");
        let database = env.create_database(&mut txn, None).expect("a database");
        txn.commit().expect("commit");
        let this = Self { env, database, _directory: directory };
        for number in 0..entries {
            this.put(&keys::key(number), &[1; VALUE]);
        }
        this
    }

    /// One put in one transaction.
    #[inline]
    pub fn put(&self, key: &[u8], value: &[u8]) {
        let mut txn = self.env.write_txn().expect("a transaction");
        self.database.put(&mut txn, key, value).expect("put");
        txn.commit().expect("commit");
    }

    /// One get in a transaction of its own.
    #[inline]
    pub fn get(&self, key: &[u8], value: &mut Vec<u8>) -> bool {
        self.get_in(&self.read(), key, value)
    }

    /// A transaction for reading.
    pub fn read(&self) -> RoTxn<'_, WithTls> {
        self.env.read_txn().expect("a transaction")
    }

    /// One get in a transaction that is there.
    #[inline]
    pub fn get_in(&self, txn: &RoTxn<'_, WithTls>, key: &[u8], value: &mut Vec<u8>) -> bool {
        let found = self.database.get(txn, key).expect("get");
        value.clear();
        value.extend_from_slice(found.unwrap_or_default());
        found.is_some()
    }
}

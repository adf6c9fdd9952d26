//! What is read of a dump; whatever else stands there was of the other region's life.

use std::collections::BTreeMap;

use common::objects::queue;
use common::slots::Totals;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Dump {
    pub header: Header,
    pub totals: TotalsDump,
    pub users: BTreeMap<String, SentDump>,
    pub folders: Vec<FolderDump>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub length: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TotalsDump {
    connections: u64,
    messages: u64,
    bytes: u64,
    errors: u64,
    crashes: u64,
    recoveries: u64,
    requests: u64,
    work_ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct SentDump {
    pub messages: u64,
    pub bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct FolderDump {
    pub name: String,
    pub objects: Vec<ObjectDump>,
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ObjectDump {
    pub name: String,
    pub kind: String,
    pub value: Option<u64>,
    pub entries: Option<Vec<EntryDump>>,
    pub capacity: Option<u64>,
    pub items: Option<Vec<Bytes>>,
    pub in_flight: Option<Vec<TakenDump>>,
    pub content: Option<Bytes>,
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EntryDump {
    pub key: Bytes,
    pub value: Bytes,
}

#[derive(Debug, Deserialize)]
pub(super) struct TakenDump {
    pub end: End,
    pub item: Bytes,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    Front,
    Back,
}

/// As the dump writes them: text, or the digits of what is none.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Bytes {
    Text(String),
    Hex { hex: String },
}

impl TotalsDump {
    pub fn to_totals(&self) -> Totals {
        let Self { connections, messages, bytes, errors, crashes, recoveries, requests, work_ns } = *self;
        Totals { connections, messages, bytes, errors, crashes, recoveries, requests, work_ns }
    }
}

impl From<End> for queue::End {
    fn from(end: End) -> Self {
        match end {
            End::Front => Self::Front,
            End::Back => Self::Back,
        }
    }
}

impl Bytes {
    /// `None` where the digits are none.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let digits = match self {
            Self::Text(text) => return Some(text.as_bytes().to_vec()),
            Self::Hex { hex } => hex.as_bytes(),
        };
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pairs = digits.as_chunks::<2>().0.iter();
        pairs.map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
    }
}

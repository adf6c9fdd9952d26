//! The post office under chaos: the journal replays to exactly what the queue of letters and the ledger hold, though others
//! rename them, and delete them and make others, while they are used. Parcels are
//! taken and worked on outside of transactions: whichever worker dies at that, none is lost and none worked on twice.

use std::collections::VecDeque;

use common::objects::{Folder, ReadError, in_flight};
use common::region::Region;
use holdfast_tests::journal::Record;
use holdfast_tests::random::Random;

const LEDGER: u64 = 8 * 1024;

/// Something to do at the post office; the note makes it unlike anything else.
pub fn say(random: &mut Random, note: &str) -> String {
    match random.below(200) {
        0..2 => format!("burn {note}"),
        2..7 => format!("sort {note}"),
        7..12 => format!("store {note}"),
        12..14 => format!("blank {note}"),
        14..36 => format!("post {} {note}", random.below(3000)),
        36..50 => format!("urgent {} {note}", random.below(200)),
        50..75 => format!("collect {note}"),
        75..95 => format!("recall {note}"),
        95..130 => {
            let length = [8, 100, 1000][random.below(3) as usize];
            format!("stamp {} {length} {note}", random.below(LEDGER))
        }
        130..170 => format!("deliver {note}"),
        _ => format!("work {note}"),
    }
}

/// What the post office must hold.
struct Model {
    letters: VecDeque<Vec<u8>>,
    ledger: Vec<u8>,
    delivered: Vec<Vec<u8>>,
    worked_on: usize,
}

/// What the post office holds is what its journal says.
#[track_caller]
pub fn check(region: &Region, records: &[Record]) {
    let ledger = vec![0; LEDGER as usize];
    let mut said = Model { letters: VecDeque::new(), ledger, delivered: Vec::new(), worked_on: 0 };
    records.iter().for_each(|record| said.replay(&record.message));
    said.compare(region).expect("the post office can be read");
}

/// Those that there are.
fn there<T>(found: [Result<T, ReadError>; 2]) -> Result<Vec<T>, ReadError> {
    found.into_iter().filter(|one| !matches!(one, Err(ReadError::NotFound))).collect()
}

fn repeated(text: &str, length: usize) -> Vec<u8> {
    text.bytes().cycle().take(length).collect()
}

impl Model {
    fn replay(&mut self, message: &str) {
        let words: Vec<_> = message.split(' ').collect();
        let number = |place: usize| -> usize { words[place].parse().expect("a number was sent") };
        match words[0] {
            "post" => self.letters.push_back(repeated(message, number(1))),
            "urgent" => self.letters.push_front(repeated(message, number(1))),
            "collect" => drop(self.letters.pop_front()),
            "recall" => drop(self.letters.pop_back()),
            "stamp" => {
                let (at, end) = (number(1), (number(1) + number(2)).min(LEDGER as usize));
                self.ledger[at..end].copy_from_slice(&repeated(message, end - at));
            }
            "burn" => self.letters.clear(),
            "blank" => self.ledger.fill(0),
            "sort" | "store" => {}
            "deliver" => self.delivered.push(message.into()),
            "work" => self.worked_on += 1,
            other => panic!("nobody says {other}"),
        }
    }

    #[track_caller]
    fn compare(&self, region: &Region) -> Result<(), ReadError> {
        let office = Folder::open(region, "post/office")?;
        let attic = Folder::open(region, "post/attic")?;
        let queues = ["letters", "sorted"].map(|name| office.open_queue(region, name));
        let [letters] = there(queues)?[..] else { panic!("the letters have one name") };
        let letters = letters.items(region)?;
        let [ledger] = there([office, attic].map(|folder| folder.open_blob(region, "ledger")))?[..] else {
            panic!("the ledger is in one place")
        };
        assert!(self.letters == letters, "{} letters, not {}", letters.len(), self.letters.len());
        assert!(ledger.get(region)? == self.ledger, "the ledger is another");
        let mut parcels = office.open_queue(region, "parcels")?.items(region)?;
        // A worker that could neither record its work nor put the parcel back has it still.
        for taken in region.slots().flat_map(|(_, slot)| in_flight::taken(region, slot)) {
            parcels.extend(in_flight::item(region, &taken));
        }
        assert_eq!(parcels.len(), self.delivered.len() - self.worked_on, "parcels");
        parcels.sort_unstable();
        assert!(parcels.windows(2).all(|two| two[0] != two[1]), "a parcel is there twice");
        assert!(parcels.iter().all(|parcel| self.delivered.contains(parcel)), "a parcel was never delivered");
        Ok(())
    }
}

//! What the server does wrong, and when.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use common::units::Span;
use holdfast_tests::random::Random;

/// What it does wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Answers with this status and, perhaps, `Retry-After`.
    Status(u16, Option<u64>),
    /// Answers so much later.
    Slow(Duration),
    /// Closes the connection before it reads the body,
    Drop,
    /// after it has read it,
    DropRead,
    /// after it has stored it.
    DropStored,
    /// Answers with what is not HTTP.
    Garbage,
    /// Answers with the beginning of an answer.
    Cut,
}

/// Faults in turn; and the one that follows for ever.
#[derive(Clone, Debug, Default)]
pub struct List {
    next: VecDeque<Fault>,
    last: Option<Fault>,
}

/// Reads `--faults`.
pub fn parse_list(text: &str) -> Result<List, String> {
    let mut list = List::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if list.last.is_some() {
            return Err("nothing comes after the fault that is for ever".to_owned());
        }
        match word.strip_suffix('*') {
            Some(word) => list.last = Some(parse(word)?),
            None => list.next.push_back(parse(word)?),
        }
    }
    Ok(list)
}

fn parse(word: &str) -> Result<Fault, String> {
    let (name, argument) = word.split_once(':').map_or((word, None), |(name, rest)| (name, Some(rest)));
    let wrong = || format!("there is no fault {word:?}; see --help");
    Ok(match (name, argument) {
        ("ok", None) => Fault::None,
        ("slow", Some(time)) => Fault::Slow(time.parse::<Span>().map_err(|error| error.to_string())?.0),
        ("drop", None) => Fault::Drop,
        ("drop-read", None) => Fault::DropRead,
        ("drop-stored", None) => Fault::DropStored,
        ("garbage", None) => Fault::Garbage,
        ("cut", None) => Fault::Cut,
        (code, pause) => {
            let code = code.parse().ok().filter(|code| (100..1000).contains(code)).ok_or_else(wrong)?;
            let pause = pause.map(|pause| pause.parse().map_err(|_| wrong())).transpose()?;
            Fault::Status(code, pause)
        }
    })
}

/// Deals faults out to requests.
#[derive(Debug)]
pub struct Faults {
    chance: u64,
    state: Mutex<(List, Random)>,
}

impl Faults {
    /// Those of the list, then by chance, of a hundred.
    pub fn new(list: List, chance: u8, seed: u64) -> Self {
        Self { chance: chance.into(), state: Mutex::new((list, Random::new(seed))) }
    }

    /// What to do wrong with the next request.
    pub fn next(&self) -> Fault {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (list, random) = &mut *state;
        match (list.next.pop_front(), &list.last) {
            (Some(fault), _) => fault,
            (None, Some(fault)) => fault.clone(),
            (None, None) if random.below(100) < self.chance => Fault::at_random(random.word()),
            (None, None) => Fault::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let faults = Faults::new(parse_list("500, 429:2,slow:3s,ok,drop-read,403*").unwrap(), 0, 1);
        let dealt: Vec<_> = (0..7).map(|_| faults.next()).collect();
        let always = Fault::Status(403, None);
        assert_eq!(
            dealt,
            [
                Fault::Status(500, None),
                Fault::Status(429, Some(2)),
                Fault::Slow(Duration::from_secs(3)),
                Fault::None,
                Fault::DropRead,
                always.clone(),
                always
            ]
        );
        for wrong in ["x", "99", "500*,ok", "slow", "slow:x", "429:x"] {
            assert!(parse_list(wrong).is_err(), "{wrong}");
        }
    }
}

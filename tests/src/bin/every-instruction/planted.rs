//! The proof of the proof: mistakes are planted in the code, one after the other, and each must be found.

#[cfg(feature = "planted")]
use common::planted::{ALL, Bug, plant};

/// Plants each mistake whose name contains `filter` and prints what finds it; an error where one is not found. `find`
/// gives the first failure of the proofs that should find it, or of all of them.
#[cfg(feature = "planted")]
pub fn find_all(filter: &str, find: fn(Option<Bug>) -> Option<String>) -> Result<(), String> {
    if let Some(failure) = find(None) {
        return Err(format!("it fails though nothing is planted: {failure}"));
    }
    let mut missed = Vec::new();
    for bug in ALL.into_iter().filter(|bug| format!("{bug:?}").contains(filter)) {
        plant(Some(bug));
        match find(Some(bug)) {
            Some(found) => println!("{:<22} found: {found}", format!("{bug:?}")),
            None => {
                println!("{:<22} NOT FOUND", format!("{bug:?}"));
                missed.push(bug);
            }
        }
    }
    plant(None);
    if missed.is_empty() { Ok(()) } else { Err(format!("{} planted mistakes were not found", missed.len())) }
}

#[cfg(not(feature = "planted"))]
use common::planted::Bug;

/// Without the feature there is nothing to be planted.
#[cfg(not(feature = "planted"))]
pub fn find_all(_filter: &str, _find: fn(Option<Bug>) -> Option<String>) -> Result<(), String> {
    Err("--planted needs a build with the feature `planted`; see scripts/test".to_owned())
}

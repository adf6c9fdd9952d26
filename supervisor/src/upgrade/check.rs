//! Whether a program could take over: asked of itself, as a child, before anything happens.

use std::fs::File;
use std::os::fd::RawFd;

use common::error::{Context, Error, Result};
use common::output;
use common::region::UnverifiedRegion;
use common::sys::file;
use common::sys::process::Ending;

use super::handover::{self, Errand, Summons};
use crate::event_loop::State;
use crate::prepared::Prepared;

/// What a program says that could take over, on a line of its own. Whatever else runs without an error, such as an older
/// supervisor, which knows nothing of this, does not say it.
const COULD: &str = "It could take over from the instance that runs.";

/// As a child of a supervisor that runs, if this is what it is summoned for: says whether this program could go on with
/// what it is handed.
///
/// # Errors
/// Why it could not.
pub fn answer(summons: Option<&Summons>) -> Result<()> {
    let Some(Errand::Answer(handed)) = summons.map(|summons| &summons.errand) else { return Ok(()) };
    could(*handed)
}

fn could(handed: RawFd) -> Result<()> {
    let descriptor = file::adopt(handed).context(|| "nothing is handed over".to_owned())?;
    let state: State = handover::read(&mut File::from(descriptor))?;
    let options = state.options()?;
    Prepared::of(&options)?;
    let region =
        file::adopt(state.region_to_show()).context(|| "the region is not handed over".to_owned())?;
    let region = UnverifiedRegion::open_read_only(&File::from(region))?;
    options.check_room(region.contents().geometry())?;
    output::print_line(COULD)
}

/// What it means how the child ended, and what it said.
///
/// # Errors
/// Why the program cannot take over.
pub fn judge(ending: Ending, said: &str) -> Result<()> {
    let last = || said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let words = || last().strip_prefix("supervisor: ").unwrap_or_else(last);
    match ending {
        Ending::Exited(0) if said.lines().any(|line| line == COULD) => Ok(()),
        Ending::Exited(0) => Err(Error::failure("it does not know how to")),
        ending if last().is_empty() => Err(Error::failure(format!("it {ending}"))),
        Ending::Exited(_) => Err(Error::failure(words())),
        ending @ Ending::Killed(_) => Err(Error::failure(format!("it was {ending}: {}", words()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_says_so_could_take_over() {
        assert!(judge(Ending::Exited(0), &format!("The configuration is sound\n{COULD}\n")).is_ok());
        for (ending, said, why) in [
            (Ending::Exited(0), "", "does not know how"),
            (Ending::Exited(0), "The configuration is sound\n", "does not know how"),
            (Ending::Exited(1), COULD, "It could"),
            (Ending::Exited(4), "x\nsupervisor: the region is refused\n\n", "the region is refused"),
            (Ending::Exited(127), "", "it exited with 127"),
            (Ending::Killed(9), "", "killed by SIGKILL"),
            (Ending::Killed(11), "half a", "killed by SIGSEGV: half a"),
        ] {
            let error = judge(ending, said).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

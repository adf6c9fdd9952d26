//! What the workers, and the template, write to their stderr: panics, and whatever a service likes to say. It comes through
//! a FIFO in the run directory, so that no service can flood the log: of each kind of line the first ones are shown, and
//! of all kinds so many; how many are not is said.
//!
//! Whoever writes is not kept waiting: what is too much for this process to look at is thrown away unread. Nor does this
//! process wait for whoever reads its own stderr. The FIFO is its children's for reading too, so that their writing never
//! fails; and it has a name, so that what outlives a supervisor goes on under the next.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::error::{Context, Result};
use common::sys::privileges::Identity;
use common::sys::readiness;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::PollFlags;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, fchown, geteuid, mkfifo};

use crate::policy::Clock;

/// For so long the lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one kind that are shown meanwhile: those that differ in digits alone are of one.
const OF_A_KIND: u32 = 20;
/// Lines that are shown meanwhile of kinds that were not there before, and lines of other kinds: whatever is said again and
/// again, something new is shown beside it.
const NEW_ONES: usize = 200;
const KNOWN_ONES: u32 = 200;
/// Bytes that are looked at in a second. What comes beyond is thrown away unread.
const LOOKED_AT: usize = 64 * 1024;
const SECOND: Duration = Duration::from_secs(1);
/// Bytes that are looked at at a time: a repair may be waiting.
const AT_A_TIME: usize = 4 * 1024;
/// A longer line is cut.
const LONGEST_LINE: usize = 4 * 1024;

/// What the FIFO holds, where the kernel grants it, and how often it is emptied while it is not looked at: so long at most
/// whoever fills it waits.
const CAPACITY: usize = 256 * 1024;
const EMPTIED: Duration = Duration::from_millis(10);

/// The children's stderr.
#[derive(Debug)]
pub struct Voices {
    ours: File,
    theirs: Arc<OwnedFd>,
    /// A line whose end has not come, and whether the rest of it is passed over.
    line: Vec<u8>,
    passing_over: bool,
    window: Window,
    /// What was looked at in this second, and when that began.
    looked_at: usize,
    second: Clock,
    /// When it is emptied next, while it is not looked at.
    emptied: Option<Clock>,
    show: fn(&[u8]) -> bool,
}

/// What has come in a window.
#[derive(Debug, Default)]
struct Window {
    since: Clock,
    kinds: HashMap<u64, u32>,
    known_shown: u32,
    lines_left_out: u64,
    bytes_left_out: u64,
}

impl Voices {
    /// Makes the FIFO at `path`, or goes on with the one that is there. Whoever runs as `identity` may open what is its
    /// stderr once more.
    ///
    /// # Errors
    /// What mkfifo, open and chown report.
    pub fn open(path: &Path, identity: Option<&Identity>) -> Result<Self> {
        let doing = || "cannot make a FIFO for the stderr of workers in the run directory".to_owned();
        let open = |flags| File::options().read(true).write(flags == 0).custom_flags(flags).open(path);
        make(path).context(doing)?;
        let ours = open(nix::libc::O_NONBLOCK).context(doing)?;
        let theirs = open(0).context(doing)?;
        let user = identity.map_or_else(geteuid, |identity| Uid::from_raw(identity.uid()));
        fchown(&theirs, Some(user), None).context(doing)?;
        // With less it only has to be emptied more often.
        let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
        Ok(Self {
            ours,
            theirs: Arc::new(theirs.into()),
            line: Vec::new(),
            passing_over: false,
            window: Window::default(),
            looked_at: 0,
            second: Clock::ZERO,
            emptied: None,
            show,
        })
    }

    /// What is to be a child's stderr.
    pub fn stderr(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.theirs)
    }

    /// What to poll for reading; nothing while it is not looked at.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.emptied.is_none().then(|| self.ours.as_fd())
    }

    /// When it wants to be attended to without having been polled.
    pub fn due(&self) -> Option<Clock> {
        self.emptied
    }

    /// Does what is due: says at the end of a window what was not shown in it, and throws away what is not looked at.
    pub fn attend(&mut self, now: Clock) {
        if now.saturating_sub(self.window.since) >= WINDOW {
            self.begin_window(now);
        }
        if now.saturating_sub(self.second) >= SECOND {
            (self.looked_at, self.second, self.emptied) = (0, now, None);
        }
        if self.emptied.is_some_and(|due| due <= now) {
            self.empty();
            self.emptied = Some(now + EMPTIED);
        }
    }

    /// Shows some of what has come. False where there was nothing.
    pub fn hear(&mut self, now: Clock) -> bool {
        self.attend(now);
        if self.emptied.is_some() {
            return false;
        }
        let mut bytes = [0; AT_A_TIME];
        let Ok(count @ 1..) = self.ours.read(&mut bytes) else { return false };
        self.take(&bytes[..count]);
        self.looked_at += count;
        if self.looked_at >= LOOKED_AT {
            self.emptied = Some(now + EMPTIED);
            self.end_line();
        }
        true
    }

    /// Shows what has come and has not been shown, as far as it would be.
    pub fn hear_all(&mut self, now: Clock) {
        while self.hear(now) {}
    }

    fn begin_window(&mut self, now: Clock) {
        let Window { lines_left_out, bytes_left_out, .. } = std::mem::take(&mut self.window);
        self.window.since = now;
        if lines_left_out == 0 && bytes_left_out == 0 {
            return;
        }
        let unread = if bytes_left_out > 0 { format!(" and {bytes_left_out} bytes") } else { String::new() };
        log::warn!(
            "{lines_left_out} lines{unread} that workers wrote to stderr are not shown: in {} s it is {OF_A_KIND} of a kind, \
             {NEW_ONES} kinds, and {KNOWN_ONES} lines beside the first of each",
            WINDOW.as_secs()
        );
    }

    fn empty(&mut self) {
        let mut bytes = [0; 64 * 1024];
        for _ in 0..=CAPACITY / bytes.len() {
            let Ok(count @ 1..) = self.ours.read(&mut bytes) else { return };
            self.window.bytes_left_out += count as u64;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if !self.passing_over {
                let room = LONGEST_LINE - self.line.len();
                self.line.extend_from_slice(&text[..text.len().min(room)]);
                if text.len() > room {
                    self.end_line();
                    self.passing_over = true;
                }
            }
            if ends {
                self.end_line();
                self.passing_over = false;
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if !(self.window.admits(&line) && (self.show)(&line)) {
            self.window.lines_left_out += 1;
        }
    }
}

impl Drop for Voices {
    fn drop(&mut self) {
        self.hear_all(self.second);
        self.end_line();
        self.begin_window(Clock::ZERO);
    }
}

impl Window {
    fn admits(&mut self, line: &[u8]) -> bool {
        let kind = kind_of(line);
        let Some(count) = self.kinds.get_mut(&kind) else {
            let admitted = self.kinds.len() < NEW_ONES;
            if admitted {
                self.kinds.insert(kind, 1);
            }
            return admitted;
        };
        let admitted = *count < OF_A_KIND && self.known_shown < KNOWN_ONES;
        *count += u32::from(admitted);
        self.known_shown += u32::from(admitted);
        admitted
    }
}

/// The same for lines that differ in digits alone: they name processes, moments and places.
fn kind_of(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.split(u8::is_ascii_digit).filter(|part| !part.is_empty()).for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

/// In one write, so that it does not mix with what others write there. False where it would have to be waited for.
fn show(line: &[u8]) -> bool {
    let mut stderr = std::io::stderr();
    let takes = readiness::now(&stderr, PollFlags::POLLOUT).is_ok_and(|ready| !ready.is_empty());
    takes && stderr.write_all(printable(line).as_bytes()).is_ok()
}

/// Without what a terminal would take for a command; who writes may be anybody's prey. With a newline. No longer than what a
/// pipe takes at once that says it is ready.
fn printable(line: &[u8]) -> String {
    const LONGEST_LETTER: usize = r"\u{10ffff}".len();
    let mut text = String::with_capacity(line.len() + 1);
    for letter in String::from_utf8_lossy(line).chars() {
        if text.len() + LONGEST_LETTER >= LONGEST_LINE {
            break;
        }
        match letter {
            '\t' => text.push(letter),
            letter if letter.is_control() => text.extend(letter.escape_default()),
            letter => text.push(letter),
        }
    }
    text.push('\n');
    text
}

/// There is a FIFO of this process's own at `path`, whatever was there before.
fn make(path: &Path) -> std::io::Result<()> {
    let mine = |metadata: &std::fs::Metadata| metadata.file_type().is_fifo() && metadata.mode() & 0o077 == 0;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if mine(&metadata) => return Ok(()),
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voices(directory: &Path) -> (Voices, File) {
        let mut voices = Voices::open(&directory.join("stderr"), None).unwrap();
        voices.show = |_| true;
        let theirs = File::from(voices.stderr().try_clone().unwrap());
        (voices, theirs)
    }

    #[test]
    fn of_each_kind_the_first_are_shown_and_the_rest_is_counted() {
        let mut window = Window::default();
        let shown =
            (0..1000).filter(|number| window.admits(format!("panicked in {number}").as_bytes())).count();
        assert_eq!(shown, OF_A_KIND as usize);
        assert!(window.admits(b"another kind"));
        let letters = |number: usize| "x".repeat(number).into_bytes();
        let others = || (1..1000).filter(|number| window.admits(&letters(*number))).count();
        let counts: Vec<_> = std::iter::repeat_with(others).take(3).collect();
        let again = KNOWN_ONES as usize + 1 - OF_A_KIND as usize;
        assert_eq!(counts, [NEW_ONES - 2, again, 0], "the first of each, and some again");
        assert_eq!(window.kinds.len(), NEW_ONES);
    }

    #[test]
    fn lines_are_put_together_cut_and_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let (mut voices, mut theirs) = voices(directory.path());
        theirs.write_all(b"begun ").unwrap();
        assert!(voices.hear(Clock::ZERO) && !voices.hear(Clock::ZERO));
        assert_eq!(voices.line, b"begun ");
        theirs.write_all(b"and ended\n\n").unwrap();
        voices.hear_all(Clock::ZERO);
        assert_eq!((voices.window.kinds.len(), voices.line.len()), (1, 0), "empty ones do not count");
        theirs.write_all(&[b'y'; 3 * LONGEST_LINE]).unwrap();
        voices.hear_all(Clock::ZERO);
        assert!(voices.passing_over && voices.line.is_empty());
        theirs.write_all(b"y\nz").unwrap();
        voices.hear_all(Clock::ZERO);
        assert!(!voices.passing_over);
        assert_eq!((voices.window.kinds.len(), voices.line.as_slice()), (2, &b"z"[..]));
    }

    #[test]
    fn who_pours_is_thrown_away_unread_until_the_next_second() {
        let directory = tempfile::tempdir().unwrap();
        let (mut voices, theirs) = voices(directory.path());
        let pouring = std::thread::spawn(move || {
            let mut theirs = theirs;
            (0..2048).for_each(|_| theirs.write_all(&[b'x'; 1024]).unwrap());
        });
        // The clock of this test stands still but for what is due.
        let mut now = Clock::ZERO;
        while !pouring.is_finished() {
            now = voices.due().unwrap_or(now).min(SECOND / 2);
            voices.hear(now);
            voices.emptied = voices.emptied.map(|due| due.min(SECOND / 2));
            std::thread::yield_now();
        }
        pouring.join().unwrap();
        assert!(voices.descriptor().is_none() && voices.due().is_some());
        let looked_at = voices.looked_at;
        assert!((LOOKED_AT..LOOKED_AT + AT_A_TIME).contains(&looked_at), "{looked_at}");
        voices.attend(SECOND);
        assert!(voices.descriptor().is_some() && voices.due().is_none());
    }

    #[test]
    fn what_is_no_fifo_of_ours_gives_way_to_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stderr");
        std::fs::write(&path, "a file").unwrap();
        drop(Voices::open(&path, None).unwrap());
        let first = std::fs::symlink_metadata(&path).unwrap().ino();
        drop(Voices::open(&path, None).unwrap());
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().ino(), first, "it is gone on with");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        drop(Voices::open(&path, None).unwrap());
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
    }

    #[test]
    fn what_a_terminal_would_obey_is_spelt_out() {
        assert_eq!(printable("a\u{1b}[31m\tb\u{7} ü".as_bytes()), "a\\u{1b}[31m\tb\\u{7} ü\n");
        assert_eq!(printable(b"a\xffb"), "a\u{fffd}b\n");
        assert!(printable(&[7; LONGEST_LINE]).len() <= LONGEST_LINE);
    }
}

//! When this process is given a core: who notices deaths, and who is waited for, at once; who serves, in its turn.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// The nice value that this process was started with, once it has changed its own.
static FORMER_NICE: AtomicI32 = AtomicI32::new(UNCHANGED);
const UNCHANGED: i32 = i32::MIN;

/// Gives this process the highest priority that is permitted, so that a death is noticed also while every core is
/// busy. Programs that it starts get the former priority back. Says whether it was permitted.
pub fn raise_priority() -> bool {
    let former = rustix::process::getpriority_process(None).unwrap_or(0);
    let raised = rustix::process::setpriority_process(None, HIGHEST_PRIORITY).is_ok();
    if raised && former_priority().is_none() {
        FORMER_NICE.store(former, Ordering::SeqCst);
    }
    let _ = schedule(libc::SCHED_OTHER, SHORT_SLICE_NS, if raised { HIGHEST_PRIORITY } else { former });
    raised
}

/// From now on this process runs as soon as it is woken and until it sleeps again, before everyone who is not real-time:
/// for recovery, which many may wait for and which never has much to do. What it forks is as others are. Where that is
/// not permitted, as [`raise_priority`]. A nice value alone does not do it, not even the highest: whoever slept while others
/// ran has time to claim, is let in before who has claimed more, and several of them one after another.
pub fn preempt_others() {
    if schedule_in_real_time().is_err() {
        raise_priority();
    }
}

/// In the child between fork and exec, for a program that will [`preempt_others`] as a user who may not.
pub(super) fn permit_preemption() {
    let _ = schedule_in_real_time();
}

/// The nice value that programs which this process starts get back; `None` = its own.
pub fn former_priority() -> Option<i32> {
    Some(FORMER_NICE.load(Ordering::SeqCst)).filter(|nice| *nice != UNCHANGED)
}

/// The same in a program that has taken over from another, which had raised the priority of this process.
pub fn inherit_former_priority(nice: i32) {
    FORMER_NICE.store(nice, Ordering::SeqCst);
}

/// In the child between fork and exec.
pub(super) fn restore_priority() {
    let former = FORMER_NICE.load(Ordering::SeqCst);
    if former != UNCHANGED {
        // SAFETY: sets this process's own nice value; lowering the priority is always permitted.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, former) };
    }
}

/// The nice value that a program without privileges may take for a while: nine times the usual share of a core, which
/// lets everybody else go on if it is not given back.
const PRECEDING_NICE: i32 = -10;

/// In the child between fork and exec. Where this is not permitted, nothing is lost but the precedence.
pub(super) fn permit_precedence() {
    let limit = (20 - PRECEDING_NICE).unsigned_abs().into();
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the kernel reads the structure.
    unsafe { libc::setrlimit(libc::RLIMIT_NICE, &raw const limit) };
}

/// Finds out what is permitted to the children that will call [`wake_without_interrupting`]: here, once, since each of them
/// would get pages of its own for what it found.
pub fn prepare_patience() {
    let Ok(usual) = rustix::process::getpriority_process(None) else { return };
    let raised = |nice: &i32| *nice < usual && schedule(libc::SCHED_OTHER, SHORT_SLICE_NS, *nice).is_ok();
    let preceding = [HIGHEST_PRIORITY, PRECEDING_NICE].into_iter().find(raised).unwrap_or(usual);
    let preempting = may_schedule() && schedule_in_real_time().is_ok();
    let _ = schedule(libc::SCHED_OTHER, 0, usual);
    PREEMPTING.store(preempting, Ordering::Relaxed);
    USUAL.store(usual, Ordering::Relaxed);
    PRECEDING.store(preceding, Ordering::Relaxed);
    PATIENT.store(true, Ordering::Relaxed);
}

/// Waking up, this process does not interrupt the one that runs (`SCHED_BATCH`). A server process that is woken for a
/// connection by the process that just opened it would otherwise keep interrupting its own clients. Always permitted.
///
/// # Errors
/// What `sched_setscheduler` reports.
pub fn wake_without_interrupting() -> io::Result<()> {
    schedule(libc::SCHED_BATCH, 0, USUAL.load(Ordering::Relaxed))
}

/// Before others, as far as [`prepare_patience`] found it to be permitted: for the template, which every new worker has to
/// wait for. Its clones, ready to run by the hundred, would otherwise keep it from making the next. They have this until
/// they [`wake_without_interrupting`].
pub fn go_first() {
    let _ = schedule(libc::SCHED_OTHER, SHORT_SLICE_NS, PRECEDING.load(Ordering::Relaxed));
}

/// As before [`go_first`].
pub fn go_as_usual() {
    let _ = schedule(libc::SCHED_OTHER, 0, USUAL.load(Ordering::Relaxed));
}

/// Whether this process, or its children, are to be patient.
static PATIENT: AtomicBool = AtomicBool::new(false);

/// The nice value of a patient process, and the one with which it waits for another.
static USUAL: AtomicI32 = AtomicI32::new(0);
static PRECEDING: AtomicI32 = AtomicI32::new(0);

/// Whether it may wait for another in real time.
static PREEMPTING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread has precedence at the moment.
    static PRECEDES: Cell<bool> = const { Cell::new(false) };
}

/// From now on this process runs as soon as it is woken, whatever [`wake_without_interrupting`] says: for who has waited
/// long enough for another process of the same service, and may keep others waiting. In real time, with `CAP_SYS_NICE`, or
/// with the highest priority that is permitted (`RLIMIT_NICE`): a process that has used up its share would otherwise have to
/// stand back for everybody who is ready to run, for milliseconds where that is many. False where it has precedence already.
pub fn take_precedence() -> bool {
    if !PATIENT.load(Ordering::Relaxed) || PRECEDES.replace(true) {
        return false;
    }
    if !PREEMPTING.load(Ordering::Relaxed) || schedule_in_real_time().is_err() {
        let _ = schedule(libc::SCHED_OTHER, SHORT_SLICE_NS, PRECEDING.load(Ordering::Relaxed));
    }
    true
}

/// As before [`take_precedence`].
#[inline]
pub fn give_precedence_back() {
    if PRECEDES.get() {
        become_patient();
    }
}

#[cold]
fn become_patient() {
    // A service that has given its rights up meanwhile may go back to no negative nice value; real time ends all the same.
    let patient = |nice| schedule(libc::SCHED_BATCH, 0, nice);
    let _ = patient(USUAL.load(Ordering::Relaxed)).or_else(|_| patient(0));
    PRECEDES.set(false);
}

/// Waits with precedence.
pub fn wake_at_once<T>(wait: impl FnOnce() -> T) -> T {
    let taken = take_precedence();
    let waited = wait();
    if taken {
        become_patient();
    }
    waited
}

/// The slice of who stands back. The kernel takes the one whose slice would end first: the others' are 3 ms or less.
const LONG_SLICE_NS: u64 = 20_000_000;

/// Waits, and stands back for others who are ready to run when that is over, until each has had so much of the processor more.
/// Always permitted. Before Linux 6.12 it stands back for nobody.
pub fn come_last<T>(wait: impl FnOnce() -> T) -> T {
    if !PATIENT.load(Ordering::Relaxed) {
        return wait();
    }
    let usual = USUAL.load(Ordering::Relaxed);
    let _ = schedule(libc::SCHED_BATCH, LONG_SLICE_NS, usual);
    let waited = wait();
    let _ = schedule(libc::SCHED_BATCH, 0, usual);
    waited
}

/// Waits for about so long and keeps the core. By the clock, since how long the processor's own pause lasts differs widely
/// between processors.
pub fn pause(length: Duration) {
    let began = Instant::now();
    while began.elapsed() < length {
        std::hint::spin_loop();
    }
}

/// The nice value of who may take precedence.
const HIGHEST_PRIORITY: i32 = -20;

/// A process that asks for so little at a time is let in at once when it wakes, also while another has not used up its
/// own slice: the shortest that the kernel grants (from Linux 6.12 on; before, it is ignored).
const SHORT_SLICE_NS: u64 = 100_000;

/// Whether this process may take any priority, and go back to any. A limit that permits real time (`RLIMIT_RTPRIO`) is not
/// enough: what real time means for children could not be taken back.
fn may_schedule() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_NICE))
}

/// Gives this process a policy, the length of its slices, 0 = as the kernel likes, and a nice value. Whoever has given up
/// its rights in real time may not take back what that meant for its children, and keeps it.
fn schedule(policy: libc::c_int, slice_ns: u64, nice: i32) -> io::Result<()> {
    let attributes = libc::sched_attr {
        sched_policy: policy as u32,
        sched_nice: nice,
        sched_runtime: slice_ns,
        ..attributes()
    };
    set(&attributes).or_else(|_| set(&libc::sched_attr { sched_flags: CHILDREN_ARE_USUAL, ..attributes }))
}

/// Gives this process the lowest priority in real time, and its children none.
fn schedule_in_real_time() -> io::Result<()> {
    set(&libc::sched_attr {
        sched_policy: libc::SCHED_RR as u32,
        sched_priority: 1,
        sched_flags: CHILDREN_ARE_USUAL,
        ..attributes()
    })
}

/// See `SCHED_RESET_ON_FORK` in sched(7).
const CHILDREN_ARE_USUAL: u64 = libc::SCHED_FLAG_RESET_ON_FORK as u64;

fn attributes() -> libc::sched_attr {
    libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    }
}

fn set(attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the structure says that it has; pid 0 is this thread.
    let returned = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) };
    super::cerr(returned).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This thread's own policy.
    fn policy() -> libc::c_int {
        // SAFETY: asks for a number.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn a_patient_process_is_impatient_while_it_waits_for_another() {
        std::thread::spawn(|| {
            let permitted = may_schedule() && schedule_in_real_time().is_ok();
            let preceding = if permitted { libc::SCHED_RR } else { libc::SCHED_OTHER };
            prepare_patience();
            assert_eq!(policy(), libc::SCHED_OTHER);
            wake_without_interrupting().unwrap();
            assert_eq!(wake_at_once(policy), preceding);
            assert_eq!(policy(), libc::SCHED_BATCH);
            assert!(take_precedence());
            assert!(!take_precedence(), "has it");
            assert_eq!(wake_at_once(policy), preceding);
            assert_eq!(policy(), preceding, "kept after a wait");
            let children_policy = std::thread::spawn(policy).join().unwrap();
            assert_eq!(children_policy, libc::SCHED_OTHER, "nobody has it by birth");
            give_precedence_back();
            assert_eq!(policy(), libc::SCHED_BATCH);
        })
        .join()
        .unwrap();
    }
}

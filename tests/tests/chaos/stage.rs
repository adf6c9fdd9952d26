//! Where a script is played: an instance under load, whose supervisor may be another one after each step.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_tests::load::Load;
use holdfast_tests::place::Starting;
use holdfast_tests::processes::{Process, arguments_of, children_of};
use holdfast_tests::{DEADLINE, Instance, Visitor, eventually, within};
use nix::sys::signal::Signal;

use crate::script::{Deed, Role, Step};
use crate::visitors;

/// Where everybody who could answer is stopped, the script goes on after this time. A repair's deadline is longer: it
/// has to be met three times for damage, and one who is stopped for a step does not meet it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Somebody who was stopped, until the step of this number.
struct Frozen {
    process: Process,
    until: u64,
}

/// An instance, whoever its supervisor is.
pub struct Stage<'a> {
    starting: Box<dyn Fn() -> Starting + 'a>,
    /// There is always one, but for the moment of its replacement.
    instance: Option<Instance>,
    run_dir: PathBuf,
    visitors: Vec<Visitor>,
    frozen: Vec<Frozen>,
    step: u64,
    fewer: bool,
}

impl<'a> Stage<'a> {
    /// Starts the first instance; the others will be started like it.
    pub fn new(run_dir: PathBuf, starting: impl Fn() -> Starting + 'a) -> Self {
        let instance = Some(starting().start());
        let visitors = visitors::first(&run_dir);
        let starting = Box::new(starting);
        Self { starting, instance, run_dir, visitors, frozen: Vec::new(), step: 0, fewer: false }
    }

    /// The instance of the moment.
    #[track_caller]
    pub fn instance(&self) -> &Instance {
        self.instance.as_ref().expect("the one before has been replaced")
    }

    /// Plays one step of the script.
    #[track_caller]
    pub fn play(&mut self, step: Step, load: &Load) {
        let goal = load.answered() + step.answers;
        // Nobody need answer: they may all be stopped.
        let _ = within(PATIENCE, || if load.answered() >= goal { Ok(()) } else { Err(String::new()) });
        self.step += 1;
        self.thaw(self.step);
        eprintln!("{}: {} answers, {step:?}", self.step, load.answered());
        match step.deed {
            Deed::Kill { role: Role::Supervisor, .. } => self.kill_supervisor(0),
            Deed::KillAtStart { times } => self.kill_supervisor(times),
            Deed::Kill { role: Role::Visitor, rank } => self.replace_visitor(rank),
            Deed::Kill { role, rank } => self.find(role, rank).iter().for_each(Process::kill),
            Deed::KillWorkers => self.all(Role::Worker).iter().for_each(Process::kill),
            Deed::Freeze { role, rank, steps } => self.freeze(role, rank, steps),
            Deed::Reload => self.instance().signal(Signal::SIGHUP),
            Deed::Resize => {
                self.fewer = !self.fewer;
                self.instance().signal(if self.fewer { Signal::SIGTTOU } else { Signal::SIGTTIN });
            }
        }
    }

    /// Everybody goes on, and messages are acknowledged.
    #[track_caller]
    pub fn calm_down(&mut self, load: &Load) {
        self.thaw(u64::MAX);
        load.wait_for_more(100);
    }

    /// Ends the play and gives the instance. Visitors end as they are.
    #[track_caller]
    pub fn end(mut self) -> Instance {
        self.visitors.clear();
        self.instance.expect("the one before has been replaced")
    }

    fn freeze(&mut self, role: Role, rank: u64, steps: u64) {
        if let Some(process) = self.find(role, rank).filter(|process| process.signal(Signal::SIGSTOP)) {
            self.frozen.push(Frozen { process, until: self.step + steps });
        }
    }

    fn thaw(&mut self, now: u64) {
        for frozen in self.frozen.extract_if(.., |frozen| frozen.until <= now) {
            frozen.process.signal(Signal::SIGCONT);
        }
    }

    fn find(&self, role: Role, rank: u64) -> Option<Process> {
        let mut all = self.all(role);
        let index = rank as usize % all.len().max(1);
        (index < all.len()).then(|| all.swap_remove(index))
    }

    /// Those in a role, by their pids.
    fn all(&self, role: Role) -> Vec<Process> {
        if role == Role::Supervisor {
            return Process::of(self.instance().pid()).into_iter().collect();
        }
        if role == Role::Visitor {
            return self.visitors.iter().filter_map(|visitor| Process::of(visitor.pid())).collect();
        }
        let children = children_at_a_glance(self.instance().pid()).into_iter();
        children.filter_map(Process::of).filter(|process| plays(process, role)).collect()
    }

    fn replace_visitor(&mut self, rank: u64) {
        let place = rank as usize % self.visitors.len();
        self.visitors[place].kill();
        self.visitors[place] = visitors::next(&self.run_dir, self.step);
    }

    /// Its successors, but for the last, die once they have children, whatever these do then.
    #[track_caller]
    fn kill_supervisor(&mut self, times: u64) {
        for _ in 0..times {
            self.kill();
            let mut next = (self.starting)().launch();
            eventually(DEADLINE, "the next supervisor has a child", || {
                assert!(next.ended().is_none(), "it has ended: {}", next.stderr());
                if children_of(next.pid()).is_empty() { Err(next.stderr()) } else { Ok(()) }
            });
            self.instance = Some(next);
        }
        self.kill();
        self.instance = Some((self.starting)().start());
    }

    /// A supervisor that dies takes its children along, those who are stopped too. Visitors stay.
    #[track_caller]
    fn kill(&mut self) {
        if let Some(instance) = self.instance.take() {
            instance.kill9_leaving_visitors().assert_no_panic();
        }
        self.frozen.retain(|frozen| frozen.process.name == "visitor");
        self.fewer = false;
    }
}

/// The children of a process of one thread, by their pids, without looking at every process of the machine, so that
/// steps follow each other closely. Where some end meanwhile others may be missing.
fn children_at_a_glance(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut children: Vec<i32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    children.sort_unstable();
    children
}

/// Whether a child of the supervisor is in this role. One that has not become its program yet is in none.
fn plays(process: &Process, role: Role) -> bool {
    let has_role = |role: &str| arguments_of(process.pid).iter().any(|word| word == role);
    let (keeps, takes) = (|| has_role("journal"), || has_role("checkpoint"));
    match role {
        Role::Worker => process.name == "worker",
        Role::Template => process.name == "template",
        Role::Recovery => process.name == "recovery" && !keeps() && !takes(),
        Role::Checkpoint => process.name == "recovery" && takes(),
        Role::Keeper => process.name == "recovery" && keeps(),
        Role::Supervisor | Role::Visitor => false,
    }
}

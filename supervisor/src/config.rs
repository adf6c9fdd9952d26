//! Where the options' values come from: the command line, then `HOLDFAST_*` in the environment, then the file that
//! `--config` names, then the default.
//!
//! The options are defined once, by the fields of [`Options`]. What an option is called in the environment and in the
//! file follows from its long name; whatever stands there is read by the parser of the field. All of it comes together
//! as one command line, so that a value means the same wherever it stands.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches};
use common::address::Address;
use common::command_line;
use common::error::{Error, Result};
use common::output;
use common::units::{Size, Span};
use serde::{Deserialize, Serialize};

use crate::cli::{self, Cli, Options, Source};
use crate::prepared::Prepared;

pub(crate) mod file;

pub(crate) mod given;

/// What the variables' names begin with.
const PREFIX: &str = "HOLDFAST_";

/// A variable's name that is so many letters away from an option's is meant to be the option's.
const SLIP: usize = 1;

/// Options that reload reads again; any other keeps the value with which the instance was started.
const READ_AGAIN: [&str; 11] = [
    "users",
    "latency",
    "access-log",
    "read-timeout",
    "request-timeout",
    "max-requests",
    "idle-exit",
    "grace",
    "checkpoint-interval",
    "log-level",
    "policy",
];

/// The values of some options, by their long names: all that one source says.
type Layer = BTreeMap<String, Vec<OsString>>;

/// What this program has been asked for.
#[derive(Debug)]
pub enum Asked {
    /// To run.
    Run(Box<Configuration>),
    /// To say whether it could.
    Check(Box<Configuration>),
    /// Something of a running instance.
    Command(cli::Command),
}

/// Reads the command line, and what it leaves open from where else it may stand.
///
/// # Errors
/// Whatever cannot be used, with where it stands (exit 2).
pub fn read() -> Result<Asked> {
    let command = Cli::command();
    let matches = command_line::matches(&command)?;
    let refused = |error| command_line::refused(&command, &error);
    let cli = Cli::from_arg_matches(&matches).map_err(refused)?;
    if let Some(command) = cli.command {
        return Ok(Asked::Command(command));
    }
    let Source { config, check_config } = cli.source;
    let configuration = Box::new(Configuration::of(&matches, config.as_deref())?);
    Ok(if check_config { Asked::Check(configuration) } else { Asked::Run(configuration) })
}

/// The options in force and where they came from.
#[derive(Debug)]
pub struct Configuration {
    /// The options.
    pub options: Options,
    /// Where they came from.
    pub sources: Sources,
}

/// Where the options in force came from. Handed as it is to a successor in this process: what is in force stays so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sources {
    in_force: Layer,
    /// The command line and the environment, which do not change.
    fixed: [Layer; 2],
    file: Option<OsString>,
}

impl Sources {
    /// The options in force.
    ///
    /// # Errors
    /// A program of another version may have no such option (exit 2).
    pub fn options(&self) -> Result<Options> {
        parse(&self.in_force)
    }

    /// Reads the file again, and says what would be in force with what can be changed while an instance runs.
    ///
    /// # Errors
    /// A file that cannot be used any more.
    pub fn read_again(&self) -> Result<Renewed> {
        let mut next = in_force(&self.fixed, self.file.as_deref().map(Path::new))?;
        let mut waiting = Vec::new();
        for name in option_names() {
            let (new, now) = (next.get(&name), self.in_force.get(&name));
            if new == now || READ_AGAIN.contains(&name.as_str()) {
                continue;
            }
            match now.cloned() {
                Some(values) => next.insert(name.clone(), values),
                None => next.remove(&name),
            };
            waiting.push(name);
        }
        Ok(Renewed { options: parse(&next)?, waiting, in_force: next })
    }

    /// These options are in force from now on.
    pub fn adopt(&mut self, renewed: Renewed) -> Options {
        self.in_force = renewed.in_force;
        renewed.options
    }
}

/// What the file says when it is read again.
#[derive(Debug)]
pub struct Renewed {
    /// The options.
    pub options: Options,
    /// The names of those whose change waits for the next start.
    pub waiting: Vec<String>,
    in_force: Layer,
}

impl Configuration {
    fn of(matches: &ArgMatches, file: Option<&Path>) -> Result<Self> {
        misspelt(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let fixed = [on_command_line(matches), in_environment(std::env::var_os)?];
        // A daemon has another working directory by the time that it reads the file again.
        let file = file_named(file).map(absolute);
        let in_force = in_force(&fixed, file.as_deref())?;
        let file = file.map(PathBuf::into_os_string);
        Ok(Self { options: parse(&in_force)?, sources: Sources { in_force, fixed, file } })
    }

    /// What a file says, without a command line.
    ///
    /// # Errors
    /// A file that cannot be read, or says what is no option or no value of one (exit 2).
    pub fn of_file(path: &Path) -> Result<Self> {
        let matches = Cli::command().try_get_matches_from(["supervisor"]);
        Self::of(&matches.map_err(|error| Error::usage(error.to_string()))?, Some(path))
    }

    /// Whether an instance could be started like this, in one line; nothing is begun.
    ///
    /// # Errors
    /// What is in the way (exit 2).
    pub fn check(&self) -> Result<()> {
        let prepared = Prepared::of(&self.options).map_err(|error| Error::usage(error.to_string()))?;
        prepared.check_files(&self.options)?;
        let listen: Vec<String> = prepared.listen.iter().map(Address::to_string).collect();
        let (pool, listen) = (self.options.pool()?, listen.join(", "));
        output::print_line(&format!("The configuration is sound: {pool} workers on {listen}"))
    }
}

/// The run directory that a command means: the one it names, or the one that an instance started in the same
/// surroundings uses.
///
/// # Errors
/// A file that cannot be read (exit 2).
pub fn run_dir(instance: &cli::Instance) -> Result<PathBuf> {
    let said = instance.run_dir.clone().or_else(|| variable("run-dir").map(PathBuf::from));
    match (said, file_named(instance.config.as_deref())) {
        (Some(path), _) => Ok(path),
        // Whatever else the file says: an instance that runs can be stopped.
        (None, Some(file)) => Ok(file::run_dir(&file)?.unwrap_or_else(common::places::default_run_dir)),
        (None, None) => Ok(common::places::default_run_dir()),
    }
}

fn file_named(on_command_line: Option<&Path>) -> Option<PathBuf> {
    on_command_line.map(Path::to_owned).or_else(|| variable("config").map(PathBuf::from))
}

// ---- What there is ---------------------------------------------------------------------------------------------------

/// The options as a command of their own.
fn options_command() -> Command {
    let mut command =
        Options::augment_args(Command::new("supervisor").no_binary_name(true).disable_help_flag(true));
    command.build();
    command
}

fn options_in(command: &Command) -> impl Iterator<Item = (&Arg, &str)> {
    command.get_arguments().filter_map(|option| Some((option, option.get_long()?)))
}

/// The long names of all options.
pub fn option_names() -> Vec<String> {
    options_in(&options_command()).map(|(_, name)| name.to_owned()).collect()
}

/// What an option's value is, for a person and for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Duration,
    Size,
    Path,
    Text,
}

impl Kind {
    fn of(option: &Arg) -> Self {
        let parsed = option.get_value_parser().type_id();
        let is = |id: TypeId| parsed == id;
        if is(TypeId::of::<bool>()) {
            Self::Flag
        } else if is(TypeId::of::<u32>()) || is(TypeId::of::<u64>()) {
            Self::Number
        } else if is(TypeId::of::<Span>()) {
            Self::Duration
        } else if is(TypeId::of::<Size>()) {
            Self::Size
        } else if is(TypeId::of::<PathBuf>()) {
            Self::Path
        } else {
            Self::Text
        }
    }
}

fn takes_several(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

fn variable_name(option: &str) -> String {
    format!("{PREFIX}{}", option.to_uppercase().replace('-', "_"))
}

/// An empty variable is one that is not set.
pub(crate) fn variable(option: &str) -> Option<OsString> {
    std::env::var_os(variable_name(option)).filter(|value| !value.is_empty())
}

// ---- The sources -----------------------------------------------------------------------------------------------------

fn on_command_line(matches: &ArgMatches) -> Layer {
    let command = options_command();
    let given =
        |option: &&Arg| matches.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
    let options = options_in(&command).filter(|(option, _)| given(option));
    options
        .map(|(option, name)| {
            let raw = matches.get_raw(option.get_id().as_str()).into_iter().flatten();
            (name.to_owned(), raw.map(|value| settled(option, value)).collect())
        })
        .collect()
}

fn in_environment(variable: impl Fn(String) -> Option<OsString>) -> Result<Layer> {
    let command = options_command();
    let mut layer = Layer::new();
    for (option, name) in options_in(&command) {
        let stands_at = variable_name(name);
        let Some(value) = variable(stands_at.clone()).filter(|value| !value.is_empty()) else { continue };
        let values = if takes_several(option) { split_at_commas(&value) } else { vec![value] };
        for value in &values {
            try_value(&command, name, value).map_err(|why| Error::usage(format!("{stands_at}: {why}")))?;
        }
        layer.insert(name.to_owned(), values.iter().map(|value| settled(option, value)).collect());
    }
    Ok(layer)
}

/// A variable that is an option's but for a slip would do nothing, unnoticed. What is further away from any belongs to
/// somebody else.
///
/// # Errors
/// There is one (exit 2).
fn misspelt(names: impl Iterator<Item = String>) -> Result<()> {
    let mut known: Vec<String> = option_names().iter().map(|name| variable_name(name)).collect();
    known.push(variable_name("config"));
    let is_a_slip = |name: &String| {
        let distance = |known: &String| strsim::damerau_levenshtein(name, known);
        let nearest = known.iter().min_by_key(|known| distance(known))?;
        (1..=SLIP)
            .contains(&distance(nearest))
            .then(|| Error::usage(format!("{name}: there is no such option; did you mean {nearest}?")))
    };
    // The environment is full of others' names.
    let mut ours = names.filter(|name| name.starts_with(PREFIX));
    ours.find_map(|name| is_a_slip(&name)).map_or(Ok(()), Err)
}

fn split_at_commas(list: &OsStr) -> Vec<OsString> {
    let parts = list.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    parts.filter(|part| !part.is_empty()).map(|part| OsString::from_vec(part.to_vec())).collect()
}

/// A path means the same from every working directory.
fn settled(option: &Arg, value: &OsStr) -> OsString {
    match Kind::of(option) {
        Kind::Path => absolute(PathBuf::from(value)).into_os_string(),
        _ => value.to_owned(),
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether the option's own parser takes a value, or why it does not.
fn try_value(command: &Command, option: &str, value: &OsStr) -> std::result::Result<(), String> {
    use clap::error::ErrorKind::{InvalidValue, ValueValidation};
    match command.clone().try_get_matches_from([argument(option, value)]) {
        Err(error) if matches!(error.kind(), InvalidValue | ValueValidation) => {
            Err(command_line::on_one_line(&error))
        }
        _ => Ok(()),
    }
}

fn argument(option: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(format!("--{option}="));
    argument.push(value);
    argument
}

// ---- Together --------------------------------------------------------------------------------------------------------

fn in_force(fixed: &[Layer; 2], file: Option<&Path>) -> Result<Layer> {
    let in_file = file.map_or_else(|| Ok(Layer::new()), file::read)?;
    Ok(combine(&options_command(), [&fixed[0], &fixed[1], &in_file]))
}

/// The first source that says something of an option has it. What contradicts an earlier source gives way to it.
fn combine(command: &Command, layers: [&Layer; 3]) -> Layer {
    let mut combined = Layer::new();
    for layer in layers {
        let earlier: Vec<String> = combined.keys().cloned().collect();
        let gives_way =
            |name: &String| earlier.iter().any(|other| other == name || contradict(command, name, other));
        combined.extend(
            layer
                .iter()
                .filter(|(name, _)| !gives_way(name))
                .map(|(name, values)| (name.clone(), values.clone())),
        );
    }
    combined
}

fn contradict(command: &Command, one: &str, other: &str) -> bool {
    let option = |name: &str| options_in(command).find(|(_, long)| *long == name).map(|(option, _)| option);
    let (Some(one), Some(other)) = (option(one), option(other)) else { return false };
    let names = |from: &Arg, to: &Arg| {
        command.get_arg_conflicts_with(from).iter().any(|option| option.get_id() == to.get_id())
    };
    names(one, other) || names(other, one)
}

fn parse(layer: &Layer) -> Result<Options> {
    let command = options_command();
    let arguments = layer.iter().flat_map(|(name, values)| values.iter().map(|value| argument(name, value)));
    let refused = |error| command_line::refused(&command, &error);
    let matches = command.clone().try_get_matches_from(arguments).map_err(refused)?;
    Options::from_arg_matches(&matches).map_err(refused)
}

#[cfg(test)]
mod tests;

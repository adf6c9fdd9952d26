//! The configuration file: TOML, the options' long names with `_`, nothing else.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Arg;
use common::error::{Error, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Kind, Layer, options_command, options_in, settled, takes_several, try_value};

/// A file larger than this is taken for something else.
const MAX_FILE: u64 = 1 << 20;

/// What the file says.
///
/// # Errors
/// A file that cannot be read; what is no TOML, no option or no value of one, with its line (exit 2).
pub(super) fn read(path: &Path) -> Result<Layer> {
    let text = text_of(path, "configuration")?;
    let at = |place: usize, why: String| {
        Error::usage(format!("{} line {}: {why}", path.display(), line(&text, place)))
    };
    let table = parse(path, &text)?;
    let command = options_command();
    let mut layer = Layer::new();
    for (key, value) in &table {
        let named = |(_, name): &(&Arg, &str)| key_of(name) == **key.get_ref();
        let Some((option, name)) = options_in(&command).find(named) else {
            return Err(at(key.span().start, unknown(key.get_ref())));
        };
        let place = value.span().start;
        let values = values_of(option, value.get_ref())
            .ok_or_else(|| at(place, format!("{} must be {}", key.get_ref(), expected(option))))?;
        for value in &values {
            try_value(&command, name, value).map_err(|why| at(place, format!("{}: {why}", key.get_ref())))?;
        }
        layer.insert(name.to_owned(), values.iter().map(|value| settled(option, value)).collect());
    }
    Ok(layer)
}

/// The run directory, if the file names one, whatever else it says.
///
/// # Errors
/// A file that cannot be read, or is no TOML (exit 2).
pub(super) fn run_dir(path: &Path) -> Result<Option<PathBuf>> {
    let text = text_of(path, "configuration")?;
    Ok(parse(path, &text)?.get("run_dir").and_then(|value| value.get_ref().as_str().map(PathBuf::from)))
}

/// The text of a file that is called so.
pub(crate) fn text_of(path: &Path, called: &str) -> Result<String> {
    let unreadable =
        |why: String| Error::usage(format!("cannot read the {called} {}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(unreadable(format!("it is not a {called} file")));
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(text)
}

/// The text as TOML.
pub(crate) fn parse<'t>(path: &Path, text: &'t str) -> Result<DeTable<'t>> {
    DeTable::parse(text).map(Spanned::into_inner).map_err(|error| {
        let place = error.span().map_or(0, |span| span.start);
        let why = error.message().lines().collect::<Vec<_>>().join("; ");
        Error::usage(format!("{} line {}: {why}", path.display(), line(text, place)))
    })
}

/// The line that a place of the text is in.
pub(crate) fn line(text: &str, place: usize) -> usize {
    text.bytes().take(place).filter(|&byte| byte == b'\n').count() + 1
}

fn key_of(option: &str) -> String {
    option.replace('-', "_")
}

fn unknown(key: &str) -> String {
    let command = options_command();
    let nearest = nearest(key, options_in(&command).map(|(_, name)| key_of(name)));
    format!("there is no option {key:?}; did you mean {nearest:?}?")
}

/// The one of the known keys that somebody may have meant.
pub(crate) fn nearest(key: &str, known: impl Iterator<Item = String>) -> String {
    known.min_by_key(|known| strsim::damerau_levenshtein(key, known)).unwrap_or_default()
}

/// The values as a command line has them; `None` where they are of another type.
fn values_of(option: &Arg, value: &DeValue<'_>) -> Option<Vec<OsString>> {
    match value {
        DeValue::Array(values) if takes_several(option) && !values.is_empty() => {
            values.iter().map(|value| value_of(option, value.get_ref())).collect()
        }
        value => value_of(option, value).map(|value| vec![value]),
    }
}

fn value_of(option: &Arg, value: &DeValue<'_>) -> Option<OsString> {
    let text = match (Kind::of(option), value) {
        (Kind::Flag, DeValue::Boolean(value)) => value.to_string(),
        (Kind::Number | Kind::Duration | Kind::Size, DeValue::Integer(number)) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok()?.to_string()
        }
        (Kind::Duration | Kind::Size | Kind::Path | Kind::Text, DeValue::String(text)) => text.to_string(),
        _ => return None,
    };
    Some(text.into())
}

fn expected(option: &Arg) -> String {
    let one = match Kind::of(option) {
        Kind::Flag => "true or false".to_owned(),
        Kind::Number => "a whole number".to_owned(),
        Kind::Duration => "a duration in quotes, such as \"250ms\", \"3s\" or \"2m\"".to_owned(),
        Kind::Size => "a size in quotes, such as \"64MiB\"".to_owned(),
        Kind::Path => "a path in quotes".to_owned(),
        Kind::Text => match choices(option) {
            choices if choices.is_empty() => "a text in quotes".to_owned(),
            choices => format!("one of {}", choices.join(", ")),
        },
    };
    if takes_several(option) { format!("{one}, or a list of such") } else { one }
}

fn choices(option: &Arg) -> Vec<String> {
    option.get_possible_values().iter().map(|value| format!("{:?}", value.get_name())).collect()
}

//! What a document shows of a shell.

/// Where a command is to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anywhere.
    Plain,
    /// Where a C compiler and pip may work for minutes.
    Libraries,
    /// On a machine of its own.
    Machine,
}

/// A command, and what it is shown to print.
#[derive(Debug)]
pub struct Step {
    pub kind: Kind,
    pub command: String,
    pub shown: Vec<String>,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// All commands of a document, in order.
pub fn steps(text: &str) -> Vec<Step> {
    let (mut steps, mut inside) = (Vec::<Step>::new(), None);
    for (number, line) in text.lines().enumerate() {
        if let Some(fence) = line.strip_prefix("```") {
            inside = if inside.is_some() { None } else { kind(fence) };
            continue;
        }
        let Some(kind) = inside else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            let step = Step { kind, command: command.to_owned(), shown: Vec::new(), line: number + 1 };
            steps.push(step);
        } else if !line.trim_start().starts_with('#') {
            let step = steps.last_mut().expect("a block begins with a command");
            step.shown.push(line.to_owned());
        }
    }
    steps
}

fn kind(fence: &str) -> Option<Kind> {
    match fence {
        "console" => Some(Kind::Plain),
        "console libraries" => Some(Kind::Libraries),
        "console machine" => Some(Kind::Machine),
        other => {
            assert!(!other.starts_with("console"), "a block of an unknown kind: {other}");
            None
        }
    }
}

/// The files that a document links to.
pub fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.is_empty()).collect()
}

/// Whether a printed line is the one that is shown. A number of five digits or more, a process id say, may be any number: what it
/// is goes to `names`, under what it is shown as.
pub fn is_shown(shown: &str, printed: &str, names: &mut Vec<(String, String)>) -> bool {
    let (mut shown, mut printed, mut found) = (shown.trim(), printed.trim(), Vec::new());
    while !shown.is_empty() {
        let (wanted, given) = (digits(shown), digits(printed));
        if wanted >= 5 && given > 0 {
            found.push((shown[..wanted].to_owned(), printed[..given].to_owned()));
            (shown, printed) = (&shown[wanted..], &printed[given..]);
            continue;
        }
        let (Some(one), Some(other)) = (shown.chars().next(), printed.chars().next()) else { return false };
        if one != other {
            return false;
        }
        (shown, printed) = (&shown[one.len_utf8()..], &printed[other.len_utf8()..]);
    }
    if printed.is_empty() {
        names.append(&mut found);
    }
    printed.is_empty()
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

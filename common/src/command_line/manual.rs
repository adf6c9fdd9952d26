//! What a program's command line says of itself, for readers and for shells: manual pages and completions. Every program
//! makes its own, so that they are of the very options that it takes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::error::{Context, Error, Result};

/// The option that asks for it. It is no program's own, and stands alone with a directory: `supervisor --generate DIR`.
const OPTION: &str = "--generate";

/// Programs that lie beside the path, for who administers the machine.
const OFF_THE_PATH: [&str; 2] = ["exporter", "recovery"];

/// Where the pages and completions are wanted, if these arguments, the program's name not among them, ask for them.
///
/// # Errors
/// They ask, and name no directory, or something else besides (exit 2).
pub fn wanted(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<PathBuf>> {
    let mut arguments = arguments.into_iter();
    if arguments.next().is_none_or(|first| first != OPTION) {
        return Ok(None);
    }
    match (arguments.next(), arguments.next()) {
        (Some(directory), None) if !directory.is_empty() => Ok(Some(directory.into())),
        _ => Err(Error::usage(format!(
            "{OPTION} takes a directory for manual pages and completions, such as /usr/local/share, and nothing else"
        ))),
    }
}

/// Writes this command's pages and completions below the directory, where the shells and `man` look below a `share`.
///
/// # Errors
/// A file that cannot be written (exit 1).
pub fn write(command: &Command, share: &Path) -> Result<()> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let name = command.get_name().to_owned();
    let section = if OFF_THE_PATH.contains(&name.as_str()) { "8" } else { "1" };
    write_pages(&command, section, &share.join(format!("man/man{section}")))?;
    for (shell, file) in [
        (Shell::Bash, format!("bash-completion/completions/{name}")),
        (Shell::Zsh, format!("zsh/site-functions/_{name}")),
        (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
    ] {
        let mut script = Vec::new();
        generate(shell, &mut command, name.as_str(), &mut script);
        place(&share.join(file), &script)?;
    }
    Ok(())
}

/// A page for the command, and one for each of its commands that are shown.
fn write_pages(command: &Command, section: &str, directory: &Path) -> Result<()> {
    for each in command.get_subcommands().filter(|each| !each.is_hide_set()) {
        write_pages(each, section, directory)?;
    }
    let page = Man::new(command.clone()).section(section).manual("Holdfast");
    let mut text = Vec::new();
    page.render(&mut text).context(|| "cannot make a manual page".to_owned())?;
    let text = String::from_utf8_lossy(&text).replacen(".SH EXTRA", ".SH NOTES", 1);
    place(&directory.join(page.get_filename()), text.as_bytes())
}

fn place(file: &Path, content: &[u8]) -> Result<()> {
    let writing = || format!("cannot write {}", file.display());
    fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).context(writing)?;
    fs::write(file, content).context(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> Result<Option<PathBuf>> {
        wanted(arguments.iter().map(OsString::from))
    }

    #[test]
    fn only_the_option_alone_asks_for_it() {
        assert_eq!(asked(&["--generate", "share"]).unwrap(), Some(PathBuf::from("share")));
        for others in [&[][..], &["status"], &["--", "--generate", "share"], &["--generate=share"]] {
            assert_eq!(asked(others).unwrap(), None);
        }
        for wrong in [&["--generate"][..], &["--generate", ""], &["--generate", "a", "b"]] {
            assert!(asked(wrong).unwrap_err().to_string().contains("--generate"));
        }
    }

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let share = tempfile::tempdir().unwrap();
        let shown = Command::new("look").about("Look around");
        let hidden = Command::new("listen").hide(true);
        let command = Command::new("program").version("1").after_help("More.").subcommands([shown, hidden]);
        write(&command, share.path()).unwrap();
        let pages = fs::read_dir(share.path().join("man/man1")).unwrap();
        let mut pages: Vec<_> =
            pages.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        pages.sort();
        assert_eq!(pages, ["program-look.1", "program.1"]);
        let page = fs::read_to_string(share.path().join("man/man1/program.1")).unwrap();
        assert!(page.contains(".SH NOTES\nMore."), "{page}");
    }
}

//! What the Debian package is made of, as far as it can be looked at without making one: manual pages and completions
//! from the programs, maintainer scripts, units. `scripts/prove-package` makes it, installs it and runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::machine::skip;
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::{Place, programs};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `--help` prints of a program or of one of its commands.
fn help(name: &str, commands: &[&str]) -> String {
    run(program(name).args(commands).arg("--help")).assert_succeeded().stdout.clone()
}

/// The long options that a help text defines: those that a line begins with.
fn options_of(help: &str) -> BTreeSet<String> {
    let defined = help.lines().filter(|line| line.trim_start().starts_with('-'));
    let words =
        defined.flat_map(|line| line.split([' ', ',', '[', '=']).take_while(|word| !word.contains('.')));
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

/// The commands that a help text lists.
fn commands_of(help: &str) -> Vec<String> {
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// A page as it reads, without roff's escapes.
fn page(share: &Path, name: &str) -> String {
    let files = [1, 8].map(|section| share.join(format!("man/man{section}/{name}.{section}")));
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
    text.unwrap_or_else(|| panic!("there is no page {name}")).replace('\\', "")
}

#[test]
fn pages_and_completions_have_every_option() {
    let place = Place::new();
    let share = place.file("share");
    for name in programs::ALL {
        let made = run(program(name).arg("--generate").arg(&share));
        assert_eq!(made.assert_succeeded().stdout, "", "{name}");
        let whole = help(name, &[]);
        let bash = fs::read_to_string(share.join("bash-completion/completions").join(name)).unwrap();
        let zsh = fs::read_to_string(share.join(format!("zsh/site-functions/_{name}"))).unwrap();
        let fish = fs::read_to_string(share.join(format!("fish/vendor_completions.d/{name}.fish"))).unwrap();
        let mut seen = 0;
        let mut commands = vec![(name.to_owned(), whole.clone())];
        commands.extend(
            commands_of(&whole).iter().map(|command| (format!("{name}-{command}"), help(name, &[command]))),
        );
        for (title, help) in commands {
            let page = page(&share, &title);
            for option in options_of(&help) {
                assert!(page.contains(&option), "{title}: the page does not have {option}:\n{page}");
                assert!(bash.contains(&option), "{title}: bash does not know {option}");
                assert!(zsh.contains(&option), "{title}: zsh does not know {option}");
                assert!(
                    fish.contains(&format!("-l {}", &option[2..])),
                    "{title}: fish does not know {option}"
                );
                seen += 1;
            }
        }
        assert!(seen >= 2, "{name} has {seen} options, --help and --version among them");
    }
    assert!(page(&share, "supervisor").contains("--workers"));
    assert!(page(&share, "supervisor-status").contains("--json"));
    assert!(page(&share, "recovery-import").contains("--size"));
}

#[test]
fn pages_are_asked_for_with_a_directory_and_nothing_else() {
    let place = Place::new();
    for arguments in [&["--generate"][..], &["--generate", "", ""], &["--generate", "share", "status"]] {
        run(program("supervisor").args(arguments)).assert_failed(2, &["--generate"]);
    }
    let file = place.write("file", "");
    run(program("supervisor").arg("--generate").arg(&file)).assert_failed(1, &["cannot write"]);
}

/// Every file of a directory of the repository.
fn files_in(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn scripts_are_what_their_shells_understand() {
    let mut scripts: Vec<_> = ["scripts", "scripts/debian", "scripts/init.d", "scripts/prove-package.d"]
        .iter()
        .flat_map(|d| files_in(d))
        .collect();
    scripts.push(repository().join(".ci/run"));
    let mut checked = 0;
    for script in scripts.iter().filter(|script| script.exists()) {
        let text = fs::read_to_string(script).unwrap();
        let shell = match text.lines().next().unwrap_or_default() {
            "#!/bin/sh" => "sh",
            "#!/bin/bash" | "#!/usr/bin/env bash" => "bash",
            _ => continue,
        };
        run(Command::new(shell).arg("-n").arg(script)).assert_succeeded();
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} scripts were found");
}

/// The files that a package's metadata names as its sources.
fn sources_of(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(manifest)).unwrap();
    let assets = text.split_once("assets = [\n").expect("a list of assets").1;
    let assets = assets.split_once("\n]\n").expect("the end of the list").0;
    assets.lines().map(|line| line.split('"').nth(1).expect("a source").to_owned()).collect()
}

#[test]
fn the_package_has_every_program_and_files_that_there_are() {
    let sources = sources_of("supervisor/Cargo.toml");
    for name in programs::ALL {
        let is_it =
            |source: &&String| source.ends_with(&format!("/{name}")) && source.contains("package/usr/");
        assert_eq!(sources.iter().filter(is_it).count(), 1, "{name} is not in the package");
    }
    for (manifest, directory) in [("supervisor/Cargo.toml", "supervisor"), ("capi/Cargo.toml", "capi")] {
        for source in sources_of(manifest)
            .iter()
            .filter(|source| !source.starts_with("target/") && !source.contains('*'))
        {
            assert!(repository().join(directory).join(source).exists(), "{manifest} names {source}");
        }
    }
}

#[test]
fn the_units_are_sound() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("the units", "there is no systemd-analyze");
    }
    let place = Place::new();
    let prefix = place.file("prefix");
    let mut install = program(&repository().join("scripts/install").to_string_lossy());
    install.env("PREFIX", &prefix).env_remove("SYSCONFDIR").env_remove("DESTDIR");
    install.arg("--from").arg(programs::path("supervisor").parent().unwrap());
    run(&mut install).assert_succeeded();
    let units = prefix.join("lib/systemd/system");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()));
    let outcome = run(verify.arg(units.join("holdfast.service")).arg(units.join("holdfast.socket")));
    let about_ours = outcome.stderr.lines().filter(|line| line.contains("holdfast"));
    assert_eq!(about_ours.collect::<Vec<_>>(), [""; 0], "{outcome}");
    outcome.assert_succeeded();
}

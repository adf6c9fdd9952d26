use super::*;
use crate::policy::Shape;

fn directory_with(content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("supervisor.toml");
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

fn layer(command_line: &[&str], environment: &[(&str, &str)], file: Option<&Path>) -> Result<Layer> {
    let matches = Cli::command().get_matches_from([&["supervisor"], command_line].concat());
    let variable =
        |name: String| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
    in_force(&[on_command_line(&matches), in_environment(variable)?], file)
}

fn refusal(content: &str) -> String {
    let (_directory, path) = directory_with(content);
    let error = layer(&[], &[], Some(&path)).and_then(|layer| parse(&layer).map(drop)).unwrap_err();
    assert_eq!(error.exit(), common::error::Exit::Usage);
    error.to_string().replace(&*path.to_string_lossy(), "FILE")
}

/// A value of the option that is not its default, as the environment has it, and as the file has it.
fn sample(option: &Arg) -> (String, String) {
    let choices = option.get_possible_values();
    let text = match Kind::of(option) {
        Kind::Flag => return ("true".to_owned(), "true".to_owned()),
        Kind::Number => return ("3".to_owned(), "3".to_owned()),
        Kind::Duration => "1234ms".to_owned(),
        Kind::Size => "8MiB".to_owned(),
        Kind::Path => "/some/where".to_owned(),
        Kind::Text if !choices.is_empty() => choices.last().unwrap().get_name().to_owned(),
        Kind::Text => match option.get_long().unwrap() {
            "listen" | "control-listen" | "metrics-listen" => "unix:/some/socket".to_owned(),
            "log-level" => "debug".to_owned(),
            "collect" => "http://some.where:80/".to_owned(),
            _ => "somebody".to_owned(),
        },
    };
    (text.clone(), format!("{text:?}"))
}

#[test]
fn every_option_has_every_source_in_order() {
    let command = options_command();
    for (option, name) in options_in(&command) {
        let (plain, quoted) = sample(option);
        let key = name.replace('-', "_");
        let (_directory, path) = directory_with(&format!("{key} = {quoted}\n"));
        let alone: Layer = [(name.to_owned(), vec![plain.clone().into()])].into();
        let (flag, variable) = (format!("--{name}={plain}"), variable_name(name));
        for (line, environment, file) in [
            (&[flag.as_str()][..], &[][..], None),
            (&[], &[(variable.as_str(), plain.as_str())], None),
            (&[], &[], Some(path.as_path())),
        ] {
            let found = layer(line, environment, file).unwrap();
            assert_eq!(found, alone, "{line:?} {environment:?} {file:?}");
            parse(&found).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        // Not one of the sources, but the first of them.
        let garbage = [(variable.as_str(), plain.as_str())];
        assert_eq!(layer(&[&flag], &garbage, Some(&path)).unwrap(), alone);
    }
}

#[test]
fn the_first_source_wins() {
    let (_directory, path) = directory_with("workers = 3\nlatency = \"3s\"\ngrace = \"3s\"\n");
    let environment = [("HOLDFAST_WORKERS", "2"), ("HOLDFAST_LATENCY", "2s"), ("HOLDFAST_USERS", "")];
    let options = parse(&layer(&["--workers", "1"], &environment, Some(&path)).unwrap()).unwrap();
    assert_eq!(options.pool(), Ok(Shape::Fixed(1)));
    assert_eq!(options.latency, "2s".parse().unwrap());
    assert_eq!(options.grace, "3s".parse().unwrap());
    assert_eq!(options.read_timeout, "15s".parse().unwrap());
    assert_eq!(options.users, None, "an empty variable is not set");
}

#[test]
fn listen_is_one_address_or_several() {
    let read = |content: &str| {
        let (_directory, path) = directory_with(content);
        let listen = parse(&layer(&[], &[], Some(&path)).unwrap()).unwrap().listen().unwrap();
        listen.iter().map(Address::to_string).collect::<Vec<_>>()
    };
    assert_eq!(read(""), ["tcp:localhost:31337"]);
    assert_eq!(read("listen = 'tcp:localhost:1'"), ["tcp:localhost:1"]);
    assert_eq!(read("listen = ['tcp:[::1]:1', 'unix:/s']"), ["tcp:[::1]:1", "unix:/s"]);
    let several = [("HOLDFAST_LISTEN", "tcp:localhost:1, unix:/s,")];
    assert_eq!(parse(&layer(&[], &several, None).unwrap()).unwrap().listen().unwrap().len(), 2);
    // A source's list replaces another's; it is not added to it.
    let replaced = layer(&["-l", "fd:3"], &several, None).unwrap();
    assert_eq!(parse(&replaced).unwrap().listen().unwrap().len(), 1);
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_line() {
    let table = [
        (
            "workers = 2\nworkes = 5\n",
            "FILE line 2: there is no option \"workes\"; did you mean \"workers\"?",
        ),
        (
            "read-timeout = '3s'",
            "FILE line 1: there is no option \"read-timeout\"; did you mean \"read_timeout\"?",
        ),
        ("# one\n\n[pool]\nworkers = 3", "FILE line 3: there is no option \"pool\"; did you mean"),
        ("config = '/etc/other'", "there is no option \"config\""),
        ("check_config = true", "there is no option \"check_config\""),
        ("help = true", "there is no option \"help\""),
        ("workers = '5'", "FILE line 1: workers must be a whole number"),
        ("workers = 1.5", "workers must be a whole number"),
        ("workers = [5]", "workers must be a whole number"),
        ("workers = 0", "FILE line 1: workers: invalid value '0'"),
        ("workers = -1", "workers: invalid value '-1'"),
        ("workers = 99999999999999999999", "line 1"),
        ("\nusers = 5", "FILE line 2: users must be a path in quotes"),
        ("latency = true", "latency must be a duration in quotes"),
        ("latency = 'soon'", "FILE line 1: latency: invalid value 'soon'"),
        ("latency = 3", "it has no unit"),
        ("region_size = ['1MiB']", "region_size must be a size in quotes"),
        ("sync = 1", "sync must be one of \"never\", \"interval\", \"always\""),
        ("sync = 'sometimes'", "sync: invalid value 'sometimes'"),
        ("daemon = 'yes'", "daemon must be true or false"),
        ("listen = 5", "listen must be a text in quotes, or a list of such"),
        ("listen = []", "listen must be"),
        ("listen = ['udp:x:1']", "FILE line 1: listen: invalid value 'udp:x:1'"),
        ("workers = 1\nworkers = 2", "FILE line 2: duplicate key"),
        ("workers = \n", "FILE line 1: "),
    ];
    for (content, words) in table {
        let said = refusal(content);
        assert!(said.contains(words), "{content:?}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_named() {
    for (name, value) in [
        ("HOLDFAST_WORKERS", "many"),
        ("HOLDFAST_WORKERS", "0"),
        ("HOLDFAST_LISTEN", "tcp:localhost:1,nowhere"),
        ("HOLDFAST_DAEMON", "perhaps"),
        ("HOLDFAST_LOG_LEVEL", "loud"),
    ] {
        let error = layer(&[], &[(name, value)], None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: invalid value")), "{error}");
    }
}

#[test]
fn a_flag_can_be_taken_back() {
    let (_directory, path) = directory_with("daemon = true");
    let daemon = |line: &[&str]| parse(&layer(line, &[], Some(&path)).unwrap()).unwrap().daemon;
    assert!(daemon(&[]));
    assert!(!daemon(&["--daemon=false"]));
    assert!(daemon(&["--daemon"]));
}

#[test]
fn relative_paths_are_those_of_the_start() {
    let found = layer(&["--users", "users"], &[("HOLDFAST_LOG", "log")], None).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(found["users"], [here.join("users").into_os_string()]);
    assert_eq!(found["log"], [here.join("log").into_os_string()]);
}

#[test]
fn what_contradicts_an_earlier_source_gives_way() {
    let command = Command::new("x")
        .arg(Arg::new("workers").long("workers"))
        .arg(Arg::new("spare").long("min-spare").conflicts_with("workers"));
    let of = |name: &str| Layer::from([(name.to_owned(), vec!["1".into()])]);
    let none = Layer::new();
    for (first, second) in [("workers", "min-spare"), ("min-spare", "workers")] {
        assert_eq!(combine(&command, [&of(first), &of(second), &none]), of(first));
        assert_eq!(combine(&command, [&none, &of(first), &of(second)]), of(first));
    }
    // Within one source it stays a contradiction, for the parser to refuse.
    let both: Layer = of("workers").into_iter().chain(of("min-spare")).collect();
    assert_eq!(combine(&command, [&none, &none, &both]), both);
}

#[test]
fn reading_again_takes_what_can_change() {
    let (_directory, path) = directory_with("latency = '1s'\nworkers = 4\n");
    let matches = Cli::command().get_matches_from(["supervisor", "--grace", "7s"]);
    let mut sources = Configuration::of(&matches, Some(&path)).unwrap().sources;
    std::fs::write(&path, "latency = '2s'\nworkers = 9\ngrace = '1s'\nspool_limit = '1GiB'\n").unwrap();
    let renewed = sources.read_again().unwrap();
    assert_eq!(renewed.waiting, ["workers", "spool-limit"]);
    let options = sources.adopt(renewed);
    assert_eq!(options.latency, "2s".parse().unwrap());
    assert_eq!(options.pool(), Ok(Shape::Fixed(4)));
    assert_eq!(options.grace, "7s".parse().unwrap(), "the command line comes first");
    std::fs::write(&path, "latency = 'soon'\n").unwrap();
    sources.read_again().unwrap_err();
    std::fs::write(&path, "workers = 4").unwrap();
    let renewed = sources.read_again().unwrap();
    assert!(renewed.waiting.is_empty());
    let options = sources.adopt(renewed);
    assert!(options.latency.0.is_zero(), "what has gone from the file has its default");
}

/// The file that is installed, with every comment that holds an option made one.
fn installed_with_every_option() -> String {
    let installed = include_str!("../../../scripts/etc/supervisor.toml");
    let keys: Vec<String> = option_names().iter().map(|name| name.replace('-', "_")).collect();
    let uncommented = |line: &str| match line.strip_prefix("# ") {
        Some(rest)
            if keys.iter().any(|key| rest.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "))) =>
        {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    installed.lines().map(|line| uncommented(line) + "\n").collect()
}

#[test]
fn the_installed_file_has_every_option_with_its_default() {
    let (_directory, path) = directory_with(&installed_with_every_option());
    let told = file::read(&path).unwrap();
    // A pool is of one kind.
    let dynamic = ["min-workers", "max-workers", "min-spare", "max-spare"];
    for left_out in [&dynamic[..], &["workers"]] {
        let kept = told.clone().into_iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
        parse(&kept.collect()).unwrap();
    }
    let command = options_command();
    for (option, name) in options_in(&command) {
        let values = told.get(name).unwrap_or_else(|| panic!("scripts/etc/supervisor.toml lacks {name}"));
        let defaults: Vec<OsString> = option.get_default_values().iter().map(Into::into).collect();
        let same = |(value, default): (&OsString, &OsString)| {
            let span = |text: &OsString| text.to_string_lossy().parse::<Span>();
            value == default
                || matches!((span(value), span(default)), (Ok(value), Ok(default)) if value == default)
        };
        assert!(
            defaults.is_empty() || values.iter().zip(&defaults).all(same),
            "{name}: the file says {values:?}, the default is {defaults:?}"
        );
    }
}

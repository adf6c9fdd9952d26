//! The images: what they are told to run is run, with their paths replaced by those of a test; their files are read as
//! an engine reads them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use holdfast_tests::outcome::Running;
use holdfast_tests::{DEADLINE, eventually, place, programs, until};
use yaml_rust2::{Yaml, YamlLoader};

use crate::scene::{Scene, terminate};

/// Every instruction that an engine knows.
const INSTRUCTIONS: [&str; 17] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What one image of the file runs.
#[derive(Debug, Default)]
struct Image {
    base: String,
    entry: Vec<String>,
    arguments: Vec<String>,
    copied: Vec<String>,
}

/// The images by their names.
fn images() -> BTreeMap<String, Image> {
    let text = file("Dockerfile").replace("\\\n", " ");
    let mut images = BTreeMap::<String, Image>::new();
    let mut current = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (instruction, rest) =
            line.split_once(' ').unwrap_or_else(|| panic!("half an instruction: {line}"));
        assert!(INSTRUCTIONS.contains(&instruction), "no engine knows {line}");
        let list =
            || serde_json::from_str::<Vec<String>>(rest).unwrap_or_else(|error| panic!("{error}: {line}"));
        if instruction == "FROM" {
            let words: Vec<&str> = rest.split_whitespace().collect();
            assert_eq!((words.len(), words[1]), (3, "AS"), "{line}");
            words[2].clone_into(&mut current);
            let base = words[0].to_owned();
            images.insert(current.clone(), Image { base, ..Image::default() });
            continue;
        }
        let image = images.get_mut(&current).expect("the first instruction is FROM");
        match instruction {
            "ENTRYPOINT" => image.entry = list(),
            "CMD" => image.arguments = list(),
            "VOLUME" => drop(list()),
            "COPY" => image.copied.extend(rest.split_whitespace().map(str::to_owned)),
            _ => {}
        }
    }
    images
}

/// A command of an image, with the programs of this build and paths and ports of a test.
fn command(words: &[String], replaced: &[(&str, &str)]) -> Command {
    let name = words[0].rsplit('/').next().unwrap_or_default();
    let mut command = match name {
        "test-server" => Command::new(programs::test_server()),
        name => place::program(name),
    };
    let replace = |word: &String| {
        replaced.iter().fold(
            word.clone(),
            |word, (from, to)| if word.contains(from) { word.replace(from, to) } else { word },
        )
    };
    command.args(words[1..].iter().map(replace));
    command
}

#[test]
fn the_images_run_what_they_say() {
    let scene = Scene::new();
    let images = images();
    let words = |name: &str| [&images[name].entry[..], &images[name].arguments].concat();
    let _ = programs::path("supervisor");
    let store = scene.file("received");
    let replaced = [("/data/received", store.to_str().unwrap()), ("1080", "0"), ("0.0.0.0", "127.0.0.1")];
    let server = Running::start(&mut command(&words("test-server"), &replaced));
    let port = eventually(DEADLINE, "the server listens", || {
        let said = server.stdout();
        let line =
            said.lines().next().and_then(|line| line.rsplit_once(':')).map(|(_, port)| port.to_owned());
        line.ok_or(said)
    });
    let spool = scene.spool();
    let replaced = [("/data", spool.to_str().unwrap()), ("test-server", "127.0.0.1"), ("1080", &*port)];
    let mut collector = command(&words("collector"), &replaced);
    let collector = Running::start(collector.args(["--dist-interval", "1", "--device-interval", "10ms"]));
    until("readings arrive", || server.stdout().contains("temperature"));
    terminate(collector);

    let (run, journal) = (scene.file("run"), scene.file("journal"));
    let replaced = [
        ("/dev/shm/holdfast", run.to_str().unwrap()),
        ("/var/lib/holdfast", journal.to_str().unwrap()),
        ("0.0.0.0:31337", "127.0.0.1:0"),
        ("1000", "2"),
    ];
    let mut supervisor = command(&words("supervisor"), &replaced);
    let supervisor = Running::start(supervisor.args(["--region-size", "4MiB"]));
    until("it serves", || supervisor.stdout().starts_with("Running with 2 workers"));
    terminate(supervisor);
}

#[test]
fn what_the_images_copy_is_built_and_what_they_name_exists() {
    let images = images();
    for (name, image) in &images {
        assert!(
            image.base.contains(':') || images.contains_key(&image.base),
            "{name} is from {}",
            image.base
        );
        for word in image.copied.iter().filter(|word| word.starts_with("/holdfast/target/release/")) {
            let program = word.rsplit('/').next().unwrap_or_default();
            let known = programs::ALL.contains(&program) || program == "test-server";
            assert!(known, "{name} copies {word}");
        }
        for word in image.copied.iter().filter_map(|word| word.strip_prefix("--from=")) {
            assert!(images.contains_key(word), "{name} copies from {word}");
        }
    }
}

#[test]
fn the_composition_names_images_and_options_that_exist() {
    let images = images();
    let all = YamlLoader::load_from_str(&file("compose.yaml")).expect("it is YAML");
    let (composition, volumes) = (&all[0], &all[0]["volumes"]);
    let services = composition["services"].as_hash().expect("it has services");
    assert_eq!(services.len(), 3);
    for (name, service) in services {
        let target = service["build"]["target"].as_str().expect("a service has a target");
        assert!(images.contains_key(target), "{name:?}");
        assert_eq!(service["build"]["dockerfile"].as_str(), Some("scripts/docker/Dockerfile"));
        for other in service["depends_on"].as_vec().into_iter().flatten() {
            assert!(services.contains_key(other), "{name:?} depends on {other:?}");
        }
        for volume in service["volumes"].as_vec().into_iter().flatten() {
            let named =
                volume.as_str().and_then(|volume| volume.split_once(':')).expect("a volume has a place").0;
            assert_ne!(volumes.as_hash().and_then(|all| all.get(&Yaml::from_str(named))), None, "{named}");
        }
        let Some(words) = service["command"].as_vec() else { continue };
        let words: Vec<String> = words.iter().map(|word| word.as_str().expect("a word").to_owned()).collect();
        let program = images[target].entry[0].rsplit('/').next().unwrap_or_default();
        let mut help = place::program(program);
        let options = holdfast_tests::outcome::run(help.arg("--help")).stdout;
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(options.contains(option.as_str()), "{program} has no {option}");
        }
    }
}

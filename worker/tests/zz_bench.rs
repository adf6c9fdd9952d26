//! bench
mod stage;
use stage::*;
#[test]
#[ignore]
fn bench() {
    let n: u32 = std::env::var("N").unwrap().parse().unwrap();
    let stage = Script { workers: n, region: 64 << 20, ..Script::default() }.stage();
    let port = stage.listeners[0].port().unwrap();
    for line in std::env::var("RUNS").unwrap().split(';') {
        let args: Vec<String> =
            line.split_whitespace().map(|a| a.replace("PORT", &port.to_string())).collect();
        let out =
            std::process::Command::new("/tmp/target-main/release/cclient").args(&args).output().unwrap();
        println!("{line}\n{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    }
}

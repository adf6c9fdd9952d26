//! A client of a daemon that is started on demand: asks `acquired` for the port, connects, says `print`, and shows the
//! answer.
//!
//! `target/release/examples/ask target/release/acquired`; further arguments go to `acquired`.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    match ask() {
        Ok(answer) => {
            println!("Successfully read from daemon: {answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask() -> Result<String, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let acquired = arguments.next().unwrap_or_else(|| "acquired".into());
    let output = Command::new(acquired).args(arguments).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("there is no daemon to talk to".into());
    }
    let port: u16 = std::str::from_utf8(&output.stdout)?.trim().parse()?;
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.write_all(b"print\n")?;
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

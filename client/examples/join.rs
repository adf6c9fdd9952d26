//! Joins the region of a running instance and changes something there: `join RUN_DIR`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use client::Session;
use client::objects::Folder;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("join: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let run_dir = std::env::args_os().nth(1).map(PathBuf::from).ok_or("give the instance's run directory")?;
    let mut session = Session::attach(&run_dir)?;
    let sold = session.change(|txn| {
        let shop = txn.open_or_create_folder("shop")?;
        let stock = txn.open_or_create_map(shop, "stock")?;
        let sold = txn.open_or_create_counter(shop, "sold")?;
        txn.map(stock)?.put(b"apples", b"6")?;
        txn.counter(sold)?.add(1)
    })?;

    let region = session.region()?;
    let stock = Folder::open(region, "shop")?.open_map(region, "stock")?;
    let apples = stock.get(region, b"apples")?.unwrap_or_default();
    println!("{sold} sold, {} apples left", String::from_utf8_lossy(&apples));
    session.detach()?;
    Ok(())
}

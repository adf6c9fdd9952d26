//! The header that is checked in is the one that the source makes. `HOLDFAST_WRITE_HEADER=1 cargo test -p capi` writes it.

use std::path::Path;

#[test]
fn the_header_is_current() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml can be read");
    let made = cbindgen::Builder::new()
        .with_crate(here)
        .with_config(config)
        .generate()
        .expect("a header can be made");
    let mut header = Vec::new();
    made.write(&mut header);
    let header = String::from_utf8(header).expect("it is text");
    let path = here.join("include/holdfast.h");
    if std::env::var_os("HOLDFAST_WRITE_HEADER").is_some() {
        std::fs::write(&path, &header).expect("it can be written");
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == header,
        "include/holdfast.h is not current: HOLDFAST_WRITE_HEADER=1 cargo test -p capi"
    );
}

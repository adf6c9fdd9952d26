//! Requests as they come from a socket, in pieces: each is framed once, whatever the pieces, and none is longer than allowed.
#![no_main]

use common::limits::MAX_REQUEST;
use common::wire::line::{Frame, next_frame, parse};
use libfuzzer_sys::fuzz_target;

/// The requests in a stream; the flag: one was too long, and the stream ends.
fn requests(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut received, mut searched, mut found) = (Vec::new(), 0, Vec::new());
    for bytes in stream.chunks(piece.max(1)) {
        received.extend_from_slice(bytes);
        loop {
            let consumed = match next_frame(&received, searched) {
                Frame::Request { line, consumed } => {
                    assert!(line.len() <= MAX_REQUEST && consumed <= received.len());
                    let _ = parse(line);
                    found.push(line.to_vec());
                    consumed
                }
                Frame::Nothing { consumed } => consumed,
                Frame::Incomplete => {
                    searched = received.len();
                    break;
                }
                Frame::TooLong => return (found, true),
            };
            received.drain(..consumed);
            searched = 0;
        }
    }
    (found, false)
}

fuzz_target!(|stream: &[u8]| {
    let whole = requests(stream, stream.len());
    for piece in [1, 7, 4096] {
        assert_eq!(requests(stream, piece), whole);
    }
});

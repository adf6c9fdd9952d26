//! The exporter: it shows what is so, whoever dies, whoever asks and however, and can change nothing.

mod scene;

mod counting;

mod asking;

mod standing;

//! Ways to send 64 bytes to another process, and one back.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use client::block::{Blocks, Consumer, Options, Producer};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

pub type Message = [u8; 64];

/// What goes to and fro between two processes. Each opens its own end, when it is a process of its own.
pub trait Channel {
    fn send(&mut self, message: &Message);
    /// The one that came within the limit.
    fn receive(&mut self, limit: Duration) -> Option<Message>;
}

/// How a process learns that something came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    Sleeping,
    Polling,
}

/// The names of what the first and the second end send through.
fn names(first: bool) -> [&'static str; 2] {
    if first { ["to", "fro"] } else { ["fro", "to"] }
}

/// Looks until it is there, and at the clock now and then.
fn poll(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        for _ in 0..1000 {
            if look() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.elapsed() >= limit {
            return false;
        }
    }
}

pub struct Block {
    producer: Producer,
    consumer: Consumer,
    content: Vec<u8>,
    notice: Notice,
}

impl Block {
    pub fn open(directory: &Path, first: bool, notice: Notice) -> Self {
        let blocks = Blocks::create(directory).expect("a directory");
        let [out, back] = names(first);
        let mut producer = blocks.producer(out, Options::default()).expect("a name");
        producer.hold(Duration::from_secs(5)).expect("the lock");
        producer.publish(&[0; 64], Duration::from_secs(1)).expect("a block");
        let began = Instant::now();
        let mut consumer = loop {
            match blocks.consumer(back) {
                Ok(consumer) => break consumer,
                Err(error) => assert!(began.elapsed().as_secs() < 5, "{error}"),
            }
        };
        let mut content = Vec::new();
        consumer.read(&mut content).expect("content");
        Self { producer, consumer, content, notice }
    }
}

impl Channel for Block {
    fn send(&mut self, message: &Message) {
        self.producer.publish(message, Duration::from_secs(1)).expect("a version");
    }

    fn receive(&mut self, limit: Duration) -> Option<Message> {
        let came = match self.notice {
            Notice::Sleeping => self.consumer.wait(limit).expect("a block"),
            Notice::Polling => {
                let seen = self.consumer.seen();
                poll(limit, || self.consumer.version().expect("a block") > seen)
            }
        };
        if !came {
            return None;
        }
        self.consumer.read(&mut self.content).expect("content");
        self.content.as_slice().try_into().ok()
    }
}

pub struct Pipe {
    out: File,
    back: File,
}

impl Pipe {
    pub fn open(ends: [&OwnedFd; 2]) -> Self {
        let [out, back] = ends.map(|end| File::from(end.try_clone().expect("a descriptor")));
        Self { out, back }
    }
}

impl Channel for Pipe {
    fn send(&mut self, message: &Message) {
        self.out.write_all(message).expect("the other end is there");
    }

    fn receive(&mut self, _limit: Duration) -> Option<Message> {
        let mut message = [0; 64];
        self.back.read_exact(&mut message).ok().map(|()| message)
    }
}

/// iceoryx2's own, but for the names of its files: they begin with this program's number, so that what those leave who are
/// ended can be told from what others have.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let mut config = Config::default();
    let name = format!("holdfast-bench-iox2-{}-", std::process::id());
    let root = format!("/dev/shm/{name}root");
    config.global.prefix = FileName::new(name.as_bytes()).expect("a name of a file");
    config.global.set_root_path(&iceoryx2::prelude::Path::new(root.as_bytes()).expect("a path"));
    config
});

/// Removes what iceoryx2 has left in memory, at the end. Made before any process that uses it is forked.
pub struct Traces(String);

impl Traces {
    pub fn new() -> Self {
        Self(CONFIG.global.prefix.to_string())
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.0) {
                // What is no file is the directory.
                let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
            }
        }
    }
}

pub struct Iceoryx {
    publisher: Publisher<ipc::Service, Message, ()>,
    subscriber: Subscriber<ipc::Service, Message, ()>,
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
    notice: Notice,
    _node: Node<ipc::Service>,
}

impl Iceoryx {
    /// `id` tells the services of one measurement from those of others.
    pub fn open(id: u64, first: bool, notice: Notice) -> Self {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().config(&CONFIG).create::<ipc::Service>().expect("a node");
        let [out, back] = names(first).map(|name| format!("holdfast-bench/{id}/{name}"));
        let data = |name: &str| {
            let name = name.try_into().expect("a name");
            node.service_builder(&name).publish_subscribe::<Message>().open_or_create().expect("a service")
        };
        let event = |name: &str| {
            let name = format!("{name}/event").as_str().try_into().expect("a name");
            node.service_builder(&name).event().open_or_create().expect("a service")
        };
        Self {
            publisher: data(&out).publisher_builder().create().expect("a publisher"),
            subscriber: data(&back).subscriber_builder().create().expect("a subscriber"),
            notifier: event(&out).notifier_builder().create().expect("a notifier"),
            listener: event(&back).listener_builder().create().expect("a listener"),
            notice,
            _node: node,
        }
    }
}

impl Channel for Iceoryx {
    fn send(&mut self, message: &Message) {
        let sample = self.publisher.loan_uninit().expect("a sample").write_payload(*message);
        sample.send().expect("it is sent");
        if self.notice == Notice::Sleeping {
            self.notifier.notify().expect("it is notified");
        }
    }

    fn receive(&mut self, limit: Duration) -> Option<Message> {
        if self.notice == Notice::Sleeping {
            let began = Instant::now();
            while self.listener.timed_wait(|_| (), limit).expect("it waits") == 0 {
                if began.elapsed() >= limit {
                    return None;
                }
            }
        }
        let mut message = None;
        poll(limit, || {
            message = self.subscriber.receive().expect("it looks").map(|sample| *sample);
            message.is_some()
        });
        message
    }
}

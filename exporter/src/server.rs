//! HTTP/1.1 over whatever is listened on: one thread, a bounded number of connections, each with bounded patience.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use common::error::{Context as _, Result};
use common::sys::socket::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::answer::{answer, route};
use crate::birth::Birth;
use crate::gathering::Desk;

/// With so many connections, the oldest makes room for a new one.
const MOST_CONNECTIONS: usize = 64;
/// A request's head is no longer than this, and has no more headers.
const MOST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
/// How long a head may take to arrive, or the next one to begin.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// A connection ends after so long, once it has been answered; and so much later whether it has or not.
const LIFE: Duration = Duration::from_secs(300);
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long those who are being answered may take when this process is to end.
const FAREWELL: Duration = Duration::from_secs(1);
/// A pause after a connection that could not be accepted: the next one cannot be either.
const REST: Duration = Duration::from_millis(100);

/// Serves until it is told to end.
///
/// # Errors
/// What the kernel reports while the sockets are set up.
pub fn serve(birth: Birth) -> Result<()> {
    let Birth { watch, listeners } = birth;
    let doing = || "cannot serve".to_owned();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context(doing)?;
    let desk = Desk::open(watch).context(doing)?;
    runtime.block_on(run(desk, listeners)).context(doing)
}

async fn run(desk: Desk, listeners: Vec<Listener>) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (ending, told) = watch::channel(());
    let hall = Arc::new(Hall { desk, told, guests: Mutex::default() });
    let mut doors = Vec::new();
    for listener in listeners {
        doors.push(open_door(listener, Arc::clone(&hall))?);
    }
    poll_fn(|context| match (term.poll_recv(context), interrupt.poll_recv(context)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
    doors.iter().for_each(AbortHandle::abort);
    drop(ending);
    hall.empty(FAREWELL).await;
    Ok(())
}

/// Everybody who is connected, and what they share.
#[derive(Debug)]
struct Hall {
    desk: Desk,
    /// Its other end goes when this process is to end.
    told: watch::Receiver<()>,
    /// The oldest first.
    guests: Mutex<VecDeque<AbortHandle>>,
}

impl Hall {
    /// One more connection.
    fn admit<S: Read + Write + Unpin + Send + 'static>(self: &Arc<Self>, stream: S, over_loopback: bool) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.retain(|guest| !guest.is_finished());
        while guests.len() >= MOST_CONNECTIONS {
            guests.pop_front().inspect(AbortHandle::abort);
        }
        let guest = tokio::spawn(Arc::clone(self).attend(stream, over_loopback));
        guests.push_back(guest.abort_handle());
    }

    async fn attend<S: Read + Write + Unpin + Send + 'static>(
        self: Arc<Self>,
        stream: S,
        over_loopback: bool,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            let asked = route(request.method(), request.uri().path(), request.headers(), over_loopback);
            let desk = &self.desk;
            async move { Ok::<_, Infallible>(answer(asked, desk).await) }
        });
        let mut rules = http1::Builder::new();
        rules.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        rules.max_buf_size(MOST_HEAD).max_headers(MOST_HEADERS);
        let mut connection = pin!(rules.serve_connection(stream, service));
        let mut told = self.told.clone();
        let mut limit = pin!(timeout(LIFE, told.changed()));
        let ended =
            poll_fn(|context| match (connection.as_mut().poll(context), limit.as_mut().poll(context)) {
                (Poll::Ready(_), _) => Poll::Ready(true),
                (Poll::Pending, Poll::Ready(_)) => Poll::Ready(false),
                _ => Poll::Pending,
            });
        // How a client ends its connection is its own affair.
        if !ended.await {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(LAST_WORDS, connection).await;
        }
    }

    /// Waits until everybody has gone.
    async fn empty(&self, limit: Duration) {
        let gone = || {
            let guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
            guests.iter().all(AbortHandle::is_finished)
        };
        let _ = timeout(limit, async {
            while !gone() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

/// Lets in who comes to one socket.
fn open_door(listener: Listener, hall: Arc<Hall>) -> io::Result<AbortHandle> {
    let door = if listener.tcp {
        let door = StdTcpListener::from(listener.socket);
        door.set_nonblocking(true)?;
        let door = TcpListener::from_std(door)?;
        tokio::spawn(async move {
            loop {
                match door.accept().await {
                    Ok((stream, _)) => {
                        let local = stream.local_addr().map(|address| address.ip());
                        let over_loopback = local.is_ok_and(|address| address.to_canonical().is_loopback());
                        hall.admit(TokioIo::new(stream), over_loopback);
                    }
                    Err(error) => rest(&error).await,
                }
            }
        })
    } else {
        let door = StdUnixListener::from(listener.socket);
        door.set_nonblocking(true)?;
        let door = UnixListener::from_std(door)?;
        tokio::spawn(async move {
            loop {
                match door.accept().await {
                    Ok((stream, _)) => hall.admit(TokioIo::new(stream), false),
                    Err(error) => rest(&error).await,
                }
            }
        })
    };
    Ok(door.abort_handle())
}

async fn rest(error: &io::Error) {
    log::debug!("a connection could not be accepted: {error}");
    sleep(REST).await;
}

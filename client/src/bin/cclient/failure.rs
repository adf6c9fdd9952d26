//! Why a request was not handled.

use nix::errno::Errno;

/// Each kind is counted and reported on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No address of the server accepts connections.
    Refused,
    /// No way to the server.
    Unreachable,
    /// This machine has no local port left for another connection.
    NoLocalPort,
    /// This process or machine has no file descriptor left.
    NoDescriptor,
    /// Any other failure to connect.
    Connecting,
    /// The server closed the connection without a reply.
    Closed,
    /// The server, or its machine, reset the connection before the reply was complete.
    Reset,
    /// No reply in time.
    TimedOut,
    /// Its time was up before a connection was free, so it was never sent.
    NotSent,
    /// A line longer than any reply.
    ReplyTooLong,
    /// Any other failure to send or receive.
    Transfer,
    /// The server answered `error unauthorized`.
    ServerUnauthorized,
    /// The server answered `error malformed`.
    ServerMalformed,
    /// The server answered `error too-long`.
    ServerTooLong,
    /// The server answered `error full`.
    ServerFull,
    /// The server answered `error timeout`.
    ServerTimeout,
    /// The server answered `error busy`.
    ServerBusy,
    /// The server answered `error` and something else. One kind, so that a hostile server cannot invent millions.
    ServerOther,
}

use Failure::*;

impl Failure {
    /// Every kind, in the order of its discriminant.
    pub const ALL: [Self; 18] = [
        Refused,
        Unreachable,
        NoLocalPort,
        NoDescriptor,
        Connecting,
        Closed,
        Reset,
        TimedOut,
        NotSent,
        ReplyTooLong,
        Transfer,
        ServerUnauthorized,
        ServerMalformed,
        ServerTooLong,
        ServerFull,
        ServerTimeout,
        ServerBusy,
        ServerOther,
    ];

    /// The kind as it is reported.
    pub fn label(self) -> &'static str {
        match self {
            Refused => "connection refused",
            Unreachable => "server unreachable",
            NoLocalPort => "no local port left",
            NoDescriptor => "no file descriptor left",
            Connecting => "cannot connect",
            Closed => "closed without reply",
            Reset => "connection reset",
            TimedOut => "timed out",
            NotSent => "not sent in time",
            ReplyTooLong => "reply too long",
            Transfer => "cannot send or receive",
            ServerUnauthorized => "error unauthorized",
            ServerMalformed => "error malformed",
            ServerTooLong => "error too-long",
            ServerFull => "error full",
            ServerTimeout => "error timeout",
            ServerBusy => "error busy",
            ServerOther => "error of another kind",
        }
    }

    /// What a person can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Refused => "start the server, or correct HOST and PORT",
            Unreachable | Connecting => "check HOST and the network",
            NoLocalPort => "use --keep-alive or fewer connections, or widen net.ipv4.ip_local_port_range",
            NoDescriptor => "raise the limit of open files, or use fewer connections",
            TimedOut => "allow more with --timeout, or send less at a time",
            NotSent => "use more connections or a lower --rate, or allow more with --timeout",
            ServerUnauthorized => "use a name the server knows",
            ServerMalformed | ServerTooLong => "change MESSAGE",
            ServerFull => "let the collector empty the spool, or raise its limit",
            _ => "look into the server's log",
        }
    }

    /// Why a connection could not be made.
    pub fn of_connecting(cause: Errno) -> Self {
        match cause {
            Errno::ECONNREFUSED => Refused,
            Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::EAFNOSUPPORT => Unreachable,
            Errno::EADDRNOTAVAIL => NoLocalPort,
            Errno::EMFILE | Errno::ENFILE => NoDescriptor,
            Errno::ETIMEDOUT => TimedOut,
            Errno::ECONNRESET | Errno::EPIPE => Reset,
            _ => Connecting,
        }
    }

    /// Why a connection broke.
    pub fn of_transfer(cause: Errno) -> Self {
        match cause {
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED => Reset,
            Errno::ETIMEDOUT => TimedOut,
            _ => Transfer,
        }
    }

    /// The kind that an `error KIND: ...` line names.
    pub fn of_line(kind: &[u8]) -> Self {
        match kind {
            b"unauthorized" => ServerUnauthorized,
            b"malformed" => ServerMalformed,
            b"too-long" => ServerTooLong,
            b"full" => ServerFull,
            b"timeout" => ServerTimeout,
            b"busy" => ServerBusy,
            _ => ServerOther,
        }
    }

    /// Whether nothing was sent because there was no connection.
    pub fn is_of_connecting(self) -> bool {
        (self as usize) <= Connecting as usize
    }

    /// Whether the server answered, so that nothing is outstanding on the connection.
    pub fn is_answer(self) -> bool {
        (self as usize) >= ServerUnauthorized as usize
    }

    /// Whether the connection is of no use after this: the server closes it after some answers.
    pub fn ends_connection(self) -> bool {
        !matches!(self, ServerUnauthorized | ServerMalformed | ServerFull | ServerBusy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_order_and_labels_differ() {
        for (index, failure) in Failure::ALL.iter().enumerate() {
            assert_eq!(*failure as usize, index);
            assert!(Failure::ALL[..index].iter().all(|other| other.label() != failure.label()));
        }
    }
}

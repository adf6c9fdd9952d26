//! The other side of the socket.

//! Clients from other addresses, slow clients, and waiting for a thing to happen.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use chatfiles::time::Clock;

use super::Connection;

/// A connection from an address of this machine (all of 127.0.0.0/8 is), with a receive buffer of so many
/// bytes: a small one makes a client whom the server must wait for.
pub fn open_from(address: SocketAddr, from: Ipv4Addr, receive_bytes: Option<u32>) -> Connection {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind((from, 0).into())?;
        socket.connect(address).await?.into_std()
    });
    let stream = stream.expect("a connection");
    stream.set_nonblocking(false).expect("a blocking socket");
    Connection::over(stream)
}

/// Looks at a thing until it is so; fails the test when it is not within 20 s.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.monotonic() + Duration::from_secs(20);
    while !is_so() {
        assert!(clock.monotonic() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

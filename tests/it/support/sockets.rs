//! Connections from chosen local addresses, with a chosen receive buffer.

use std::net::{Ipv4Addr, SocketAddr};

use super::Connection;

/// Opens a connection from a loopback address (any of 127.0.0.0/8), with a receive buffer of `receive_bytes`. A small
/// buffer makes the server wait for the client.
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

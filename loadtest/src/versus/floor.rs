//! `loadtest floor`: a minimal file server that shows the best result this kernel allows.
//!
//! One thread, one epoll set: `recv`, look up the path, `send` the head with `MSG_MORE`, `sendfile` the file. Files are
//! opened once and stay open. It has no limits, no timeouts, no access control and no `Range`, and reads only the path
//! and the end of a request. Use it only for measurements with trusted clients.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, Event, EventData, EventFlags},
    fs::sendfile,
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt},
};

use super::cpu;
use crate::Error;

/// Maximum length of a request head; the server closes the connection of a client that sends more.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const EVENTS_MAX: usize = 256;
/// Size of a connection's send buffer, which the kernel doubles. Without a limit it grows to megabytes, which are no
/// longer in the CPU caches when the client reads them: a download of 9 MB then costs 145 µs of CPU per MB instead of
/// 115 (loopback). 64 KiB and 256 KiB cost more than this value; files up to 256 KB show no difference.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Number of the listener in the epoll set.
const LISTENER: u64 = u64::MAX;

/// Arguments of `loadtest floor`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Directory whose regular files are served by name
    #[arg(long)]
    root: PathBuf,
    /// CPU core of the server
    #[arg(long)]
    core: Option<usize>,
}

/// Runs the server until the process ends.
pub(crate) fn main(args: Args) -> Result<ExitCode, Error> {
    if let Some(core) = args.core {
        cpu::pin(core)?;
    }
    let listener = TcpListener::bind(args.listen)?;
    listener.set_nonblocking(true)?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    Floor::new(&args.root)?.serve(&listener)?;
    Ok(ExitCode::SUCCESS)
}

/// An open file and its response head.
struct Served {
    head: Vec<u8>,
    file: File,
    length: u64,
}

/// Files by path (`/name`).
type Files = HashMap<Vec<u8>, Rc<Served>>;

fn open_all(root: &Path) -> io::Result<Files> {
    let mut files = HashMap::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let file = File::open(entry.path())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            continue;
        }
        let length = metadata.len();
        let path = [b"/", entry.file_name().as_encoded_bytes()].concat();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        );
        files.insert(
            path,
            Rc::new(Served {
                head: head.into_bytes(),
                file,
                length,
            }),
        );
    }
    Ok(files)
}

struct Floor {
    epoll: OwnedFd,
    files: Files,
    connections: Vec<Option<Connection>>,
    /// Free connection numbers.
    free: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    /// The part of the request received so far.
    head: Vec<u8>,
    sending: Option<Sending>,
    /// The kernel may hold bytes or an end of stream that were not read yet.
    is_readable: bool,
    has_peer_closed: bool,
}

/// A response being sent.
struct Sending {
    served: Rc<Served>,
    head_sent: usize,
    offset: u64,
}

/// The connection has ended: closed, failed, or sent an invalid request.
struct Gone;

impl Floor {
    fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            files: open_all(root)?,
            connections: Vec::new(),
            free: Vec::new(),
        })
    }

    fn serve(&mut self, listener: &TcpListener) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                if event.data.u64() == LISTENER {
                    self.accept(listener)?;
                    continue;
                }
                let number = event.data.u64() as usize;
                let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut)
                else {
                    continue;
                };
                if connection.advance(event.flags, &self.files).is_err() {
                    self.connections[number] = None;
                    self.free.push(number);
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match accept_with(listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?;
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(
                &self.epoll,
                &socket,
                EventData::new_u64(number as u64),
                flags,
            )?;
            self.connections[number] = Some(Connection {
                socket,
                // `recv` fills the remaining capacity; when none is left, the connection is closed.
                head: Vec::with_capacity(HEAD_BYTES_MAX),
                sending: None,
                is_readable: false,
                has_peer_closed: false,
            });
        }
    }
}

impl Connection {
    /// Reads and writes until the kernel has no more data or no more room, as edge-triggered events require.
    fn advance(&mut self, flags: EventFlags, files: &Files) -> Result<(), Gone> {
        self.has_peer_closed |=
            flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.is_readable |= flags.contains(EventFlags::IN) || self.has_peer_closed;
        loop {
            if !self.send()? || !self.is_readable {
                return Ok(());
            }
            // Bytes that arrive after this read cause a new edge. An end of stream that was already reported does not.
            self.is_readable = self.has_peer_closed;
            match recv(
                &self.socket,
                spare_capacity(&mut self.head),
                RecvFlags::empty(),
            ) {
                // Also reached when the head has its maximum length.
                Ok((0, _)) => return Err(Gone),
                Ok(_) if self.head.ends_with(b"\r\n\r\n") => {
                    let path = self.head.split(|byte| *byte == b' ').nth(1);
                    let served = path.and_then(|path| files.get(path)).ok_or(Gone)?;
                    self.sending = Some(Sending {
                        served: Rc::clone(served),
                        head_sent: 0,
                        offset: 0,
                    });
                    self.head.clear();
                }
                Ok(_) | Err(Errno::INTR) => self.is_readable = true,
                Err(Errno::AGAIN) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Sends as much as the socket accepts. Returns whether everything was sent.
    fn send(&mut self) -> Result<bool, Gone> {
        let Some(Sending {
            served,
            head_sent,
            offset,
        }) = &mut self.sending
        else {
            return Ok(true);
        };
        loop {
            let result = if *head_sent < served.head.len() {
                let more = if served.length > 0 {
                    SendFlags::MORE
                } else {
                    SendFlags::empty()
                };
                let rest = &served.head[*head_sent..];
                send(&self.socket, rest, more | SendFlags::NOSIGNAL)
                    .map(|bytes| *head_sent += bytes)
            } else if *offset < served.length {
                let left = usize::try_from(served.length - *offset).unwrap_or(usize::MAX);
                // 0 means that the file became shorter: the response cannot be completed.
                match sendfile(&self.socket, &served.file, Some(offset), left) {
                    Ok(0) => return Err(Gone),
                    sent => sent.map(|_| ()),
                }
            } else {
                self.sending = None;
                return Ok(true);
            };
            match result {
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(_) => return Err(Gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpStream},
        thread,
    };

    use super::*;

    fn start(files: &[(&str, usize)]) -> (tempfile::TempDir, SocketAddr) {
        let root = tempfile::tempdir().unwrap();
        for (name, length) in files {
            let bytes: Vec<u8> = (0..*length).map(|at| (at % 251) as u8).collect();
            fs::write(root.path().join(name), bytes).unwrap();
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let path = root.path().to_owned();
        // The thread ends with the test process.
        thread::spawn(move || Floor::new(&path).unwrap().serve(&listener));
        (root, address)
    }

    fn get(stream: &mut TcpStream, name: &str) -> Vec<u8> {
        let request = format!("GET /{name} HTTP/1.1\r\nHost: test\r\n\r\n");
        // Sent in two pieces, to test an incomplete head.
        let (first, second) = request.split_at(9);
        stream.write_all(first.as_bytes()).unwrap();
        thread::sleep(std::time::Duration::from_millis(5));
        stream.write_all(second.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.split("Content-Length: ").nth(1).unwrap().trim();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        body
    }

    #[test]
    fn serves_files_over_one_connection() {
        let (_root, address) = start(&[("none", 0), ("small", 4096), ("large", 9_000_001)]);
        let mut stream = TcpStream::connect(address).unwrap();
        for (name, length) in [
            ("small", 4096),
            ("none", 0),
            ("large", 9_000_001),
            ("small", 4096),
        ] {
            let body = get(&mut stream, name);
            assert_eq!(body.len(), length);
            assert!(
                body.iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == (at % 251) as u8)
            );
        }
    }

    #[test]
    fn closes_on_bad_request_or_end() {
        let (_root, address) = start(&[("small", 4096)]);
        for request in [
            &b"GET /other HTTP/1.1\r\n\r\n"[..],
            &[b'x'; 10_000],
            b"GET /small",
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            // The server may close before everything was sent.
            let _ = stream.write_all(request);
            let _ = stream.shutdown(Shutdown::Write);
            let mut rest = Vec::new();
            // End of stream, or a reset if bytes were left unread.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
        let mut stream = TcpStream::connect(address).unwrap();
        assert_eq!(get(&mut stream, "small").len(), 4096);
    }
}

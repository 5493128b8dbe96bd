//! A chat backend for tests that sends raw bytes: a listener, a thread for each connection, and a closure that decides
//! what to do with each question.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::tenant::{Hook, Tenant};

/// A received question.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The number of the connection, from 0.
    pub(super) connection: usize,
    /// The number of the question on its connection, from 0.
    pub(super) nth: usize,
    /// Request line and headers.
    pub(super) head: String,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// The reaction to a question.
pub(super) enum Reply {
    /// Sends these bytes, then reads the next question on the same connection.
    Bytes(Vec<u8>),
    /// Sends these bytes, then closes.
    BytesThenClose(Vec<u8>),
    /// Sends nothing until the client disconnects.
    Never,
    /// Sends the first at once, then one byte of the second every 50 ms, until the client disconnects.
    Drip(Vec<u8>, Vec<u8>),
}

/// A response with `Content-Length`.
pub(super) fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

/// A response 200 with this body.
pub(super) fn json(body: &str) -> Reply {
    Reply::Bytes(response("200 OK", "", body))
}

type Respond = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The backend. It accepts until it is dropped. The thread of a connection ends with its client.
pub(super) struct Toy {
    pub(super) address: SocketAddr,
    asked: UnboundedReceiver<Asked>,
    stop: Arc<AtomicBool>,
}

impl Toy {
    pub(super) fn start(respond: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (respond, stopped): (Arc<Respond>, _) = (Arc::new(respond), stop.clone());
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, sender, respond) = (stream.unwrap(), sender.clone(), respond.clone());
                std::thread::spawn(move || converse(stream, connection, &sender, &*respond));
            }
        });
        Self {
            address,
            asked,
            stop,
        }
    }

    /// A backend that delays each answer until [`Gate::open`], which releases one.
    pub(super) fn gated(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (Self, Gate) {
        let (sender, receiver) = mpsc::channel();
        let receiver = Mutex::new(receiver);
        let toy = Self::start(move |asked| {
            // An error means that the test has ended.
            let _ = receiver.lock().unwrap().recv();
            reply(asked)
        });
        (toy, Gate(sender))
    }

    /// A tenant with this backend as its hook.
    pub(super) fn tenant(&self) -> Tenant {
        tenant(&format!("http://{}/hook?key=s3cret", self.address))
    }

    /// Waits for the next question.
    pub(super) async fn next(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }

    /// The number of questions that [`Self::next`] has not returned.
    pub(super) fn count(&mut self) -> usize {
        std::iter::from_fn(|| self.asked.try_recv().ok()).count()
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

pub(super) struct Gate(mpsc::Sender<()>);

impl Gate {
    pub(super) fn open(&self) {
        self.0.send(()).unwrap();
    }
}

/// `org/app` with the app id `app-id` and a hook at `url`, without a secret.
pub(super) fn tenant(url: &str) -> Tenant {
    let mut tenant = crate::auth::testing::tenant("org", "app");
    tenant.lanying = Some(crate::auth::testing::lanying("app-id"));
    tenant.hook = Some(Hook {
        url: url.into(),
        secret: None,
    });
    tenant
}

fn converse(
    mut stream: TcpStream,
    connection: usize,
    sender: &UnboundedSender<Asked>,
    respond: &Respond,
) {
    for nth in 0.. {
        let Some((head, body)) = read_request(&mut stream) else {
            return;
        };
        let asked = Asked {
            connection,
            nth,
            head,
            body,
        };
        let _ = sender.send(asked.clone());
        let bytes = match respond(&asked) {
            Reply::Bytes(bytes) => bytes,
            Reply::BytesThenClose(bytes) => {
                let _ = stream.write_all(&bytes);
                return;
            }
            Reply::Never => {
                let _ = stream.read(&mut [0]);
                return;
            }
            Reply::Drip(at_once, slowly) => {
                let _ = stream.write_all(&at_once);
                return drip(&mut stream, &slowly);
            }
        };
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Reads with a time-out between the bytes, which also detects that the client has disconnected.
fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() || matches!(stream.read(&mut [0]), Ok(0)) {
            return;
        }
    }
}

/// Reads head and body; `None` at the end of the stream and for anything but HTTP.
fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 || !byte[0].is_ascii() || byte[0] == 0x16 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let mut body = vec![0; length?.trim().parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

//! A chat backend that records questions and replies as the test requires.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

/// A reply.
#[derive(Clone)]
pub(super) enum Reply {
    /// This status and body.
    Body(u16, String),
    /// No reply until the client has disconnected.
    Never,
    /// Closes the connection.
    Close,
}

impl Reply {
    pub(super) fn json(text: &str) -> Self {
        Self::Body(200, text.to_owned())
    }

    pub(super) fn allow() -> Self {
        Self::json(r#"{"allow":true}"#)
    }
}

type Respond = dyn Fn(&Value) -> Reply + Send + Sync;

/// Accepts connections until it is dropped.
pub(super) struct Backend {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    stop: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn start(respond: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (record, stopped) = (asked.clone(), stop.clone());
        let respond: Arc<Respond> = Arc::new(respond);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (record, respond) = (record.clone(), respond.clone());
                // The thread ends when the client disconnects.
                std::thread::spawn(move || {
                    stream.and_then(|stream| answer(stream, &record, &*respond))
                });
            }
        });
        Self {
            address,
            asked,
            stop,
        }
    }

    /// The setting that activates it.
    pub(super) fn setting(&self) -> String {
        format!("hook_url = \"http://{}/may\"", self.address)
    }

    /// The questions since the last call, as JSON.
    pub(super) fn questions(&self) -> Vec<Value> {
        self.take().into_iter().map(|(_, body)| body).collect()
    }

    /// The questions with their request heads.
    pub(super) fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers one question.
fn answer(
    stream: TcpStream,
    asked: &Mutex<Vec<(String, Value)>>,
    respond: &Respond,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let question: Value = serde_json::from_slice(&body).expect("JSON");
    let reply = respond(&question);
    // Recorded before the reply, so that a client with the reply finds it.
    asked.lock().unwrap().push((head, question));
    match reply {
        Reply::Body(status, text) => {
            let length = text.len();
            let stream = reader.get_mut();
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(format!("{head}{text}").as_bytes())
        }
        Reply::Never => reader.read_to_end(&mut body).map(drop),
        Reply::Close => Ok(()),
    }
}

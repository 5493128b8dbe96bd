//! An introspection server (RFC 7662) that records the requests and replies as the test requires.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// The credentials of chatfiles, with characters that must be encoded.
pub(super) const CLIENT_ID: &str = "chat files";
pub(super) const CLIENT_SECRET: &str = "s3cret:of&chatfiles=q7Jm2ZxV0pYc9TnR4";

/// A reply.
#[derive(Clone)]
pub(super) enum Reply {
    /// This status and body.
    Body(u16, String),
    /// The beginning of a body, and then nothing until the client has disconnected.
    Cut(String),
    /// No reply until the client has disconnected.
    Never,
    /// Closes the connection.
    Close,
    /// The reply of the table for this token.
    Table,
}

struct Shared {
    reply: Mutex<Reply>,
    tokens: Mutex<HashMap<String, Value>>,
    asked: Mutex<Vec<String>>,
    /// Requests wait while it is closed.
    gate: Mutex<bool>,
    opened: Condvar,
    stop: AtomicBool,
}

/// Accepts connections until it is dropped.
pub(super) struct Provider {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Provider {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Mutex::new(Reply::Table),
            tokens: Mutex::default(),
            asked: Mutex::default(),
            gate: Mutex::new(true),
            opened: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                // The thread ends when the client disconnects.
                std::thread::spawn(move || stream.and_then(|stream| shared.answer(stream)));
            }
        });
        Self { address, shared }
    }

    /// `[tenant.auth.introspection]` with further settings.
    pub(super) fn setting(&self, more: &str) -> String {
        setting(
            &format!("http://{}/oauth/introspect?realm=chat", self.address),
            more,
        )
    }

    /// What is known about a token. Unknown tokens are not active.
    pub(super) fn know(&self, token: &str, claims: Value) {
        self.shared
            .tokens
            .lock()
            .unwrap()
            .insert(token.into(), claims);
    }

    /// An active token of alice.
    pub(super) fn know_alice(&self, token: &str) {
        self.know(token, json!({ "active": true, "sub": "alice" }));
    }

    /// Replies in this way from now on.
    pub(super) fn reply(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// Lets requests wait, or go on.
    pub(super) fn open(&self, is_open: bool) {
        *self.shared.gate.lock().unwrap() = is_open;
        self.shared.opened.notify_all();
    }

    /// The tokens that were asked about since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// How many were asked about since the last call of [`Self::asked`].
    pub(super) fn count(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }
}

pub(super) fn setting(url: &str, more: &str) -> String {
    format!(
        "[tenant.auth.introspection]\nurl = \"{url}\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret = \"{CLIENT_SECRET}\"\n{more}\n"
    )
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.open(true);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text)
        .decode_utf8()
        .unwrap()
        .into_owned()
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some((head, form)) = read_request(&mut reader)? {
            let token = check_request(&head, &form);
            self.asked.lock().unwrap().push(token.clone());
            let gate = self.gate.lock().unwrap();
            drop(self.opened.wait_while(gate, |is_open| !*is_open).unwrap());
            let reply = self.reply.lock().unwrap().clone();
            let (status, body) = match reply {
                Reply::Body(status, body) => (status, body),
                Reply::Table => {
                    let inactive = json!({ "active": false });
                    let known = self.tokens.lock().unwrap().get(&token).cloned();
                    (200, known.unwrap_or(inactive).to_string())
                }
                Reply::Cut(body) => {
                    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
                    reader
                        .get_mut()
                        .write_all(format!("{head}{body}").as_bytes())?;
                    return reader.read_to_end(&mut Vec::new()).map(drop);
                }
                Reply::Never => return reader.read_to_end(&mut Vec::new()).map(drop),
                Reply::Close => return Ok(()),
            };
            let length = body.len();
            let location = "Location: http://127.0.0.1:1/";
            let head =
                format!("HTTP/1.1 {status} X\r\n{location}\r\nContent-Length: {length}\r\n\r\n");
            reader
                .get_mut()
                .write_all(format!("{head}{body}").as_bytes())?;
        }
        Ok(())
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<(String, String)>> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((head, String::from_utf8(body).expect("a form"))))
}

/// Checks a request as RFC 7662 §2.1 and RFC 6749 §2.3.1 want it, and returns its token.
fn check_request(head: &str, form: &str) -> String {
    assert!(
        head.starts_with("POST /oauth/introspect?realm=chat HTTP/1.1\r\n"),
        "{head}"
    );
    let lower = head.to_ascii_lowercase();
    for header in [
        "content-type: application/x-www-form-urlencoded\r\n",
        "accept: application/json\r\n",
        "user-agent: chatfiles/",
    ] {
        assert!(lower.contains(header), "{head}");
    }
    let basic = head
        .lines()
        .find_map(|line| line.split_once("Basic "))
        .expect("credentials")
        .1;
    let basic = BASE64_STANDARD.decode(basic.trim()).unwrap();
    let basic = String::from_utf8(basic).unwrap();
    let (id, secret) = basic.split_once(':').unwrap();
    assert_eq!([decode(id), decode(secret)], [CLIENT_ID, CLIENT_SECRET]);
    let fields: HashMap<_, _> = form
        .split('&')
        .filter_map(|field| field.split_once('='))
        .collect();
    assert_eq!(fields["token_type_hint"], "access_token");
    assert_eq!(fields.len(), 2, "{form}");
    decode(fields["token"])
}

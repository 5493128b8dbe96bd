//! A tiny threaded HTTP/1.1 server that responds as a test requires.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A complete request.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    pub(crate) peer: IpAddr,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value)
    }
}

/// A response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Starts to respond on a free port. Its threads end with the test.
pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> SocketAddr {
    // Listens on the whole network: the load may use any of its addresses.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            // A client that disconnects ends its connection.
            thread::spawn(move || serve(stream.unwrap(), &*answer));
        }
    });
    address
}

fn serve(
    stream: TcpStream,
    answer: &(impl Fn(&Request) -> Answer + ?Sized),
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (
            words.next().unwrap().to_owned(),
            words.next().unwrap().to_owned(),
        );
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => {
                    headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
                }
                None => break,
            };
        }
        let length = headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request = Request {
            method,
            path,
            headers,
            body,
            peer,
        };
        let answer = answer(&request);
        let mut out = format!("HTTP/1.1 {} X\r\n", answer.status);
        for (name, value) in &answer.headers {
            out += &format!("{name}: {value}\r\n");
        }
        if answer.status != 304 {
            out += &format!("content-length: {}\r\n", answer.body.len());
        }
        out += "\r\n";
        let mut out = out.into_bytes();
        if request.method != "HEAD" && answer.status != 304 {
            out.extend_from_slice(&answer.body);
        }
        writer.write_all(&out)?;
    }
}

/// Stored bodies by path.
#[derive(Default)]
pub(crate) struct Files(Mutex<HashMap<String, Vec<u8>>>);

impl Files {
    /// Stores the body of a PUT and returns it to a GET.
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        match &*request.method {
            "PUT" => {
                self.put(&request.path, request.body.clone());
                Answer::new(201, "")
            }
            _ => self
                .get(&request.path)
                .map_or(Answer::new(404, "none"), |body| Answer::new(200, body)),
        }
    }

    pub(crate) fn put(&self, name: &str, body: Vec<u8>) {
        self.0.lock().unwrap().insert(name.to_owned(), body);
    }

    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(name).cloned()
    }
}

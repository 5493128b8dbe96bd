//! `loadtest closed`: sends one kind of request over N connections in a closed loop. A connection sends its next
//! request when the previous one has ended.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::cpu;
use crate::{
    Error,
    client::{Answer, Engine, Failure, Next, Outcome, Request, Settings, Workload},
};

/// Upper limit of a recorded latency; longer ones are recorded as this value.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Arguments of `loadtest closed`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of connections; each has one request in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds during which requests are started; the last ones may finish later
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// CPU core of the client
    #[arg(long)]
    core: Option<usize>,
    /// Local address to connect from; may be repeated, connections use them in turn
    #[arg(long)]
    source: Vec<IpAddr>,
    /// Request header, `Name: value`; may be repeated
    #[arg(long)]
    header: Vec<String>,
    /// Request method
    #[arg(long, default_value = "GET")]
    method: String,
    /// File to send as the request body
    #[arg(long)]
    body_file: Option<PathBuf>,
    /// `Content-Type` of the request body
    #[arg(long, default_value = "application/octet-stream")]
    content_type: String,
    /// Fetch each URL once at the start, and compare every later response with it. Without this option, bodies are
    /// discarded in the kernel.
    #[arg(long)]
    verify: bool,
    /// URLs to request in turn, `http://host:port/path`, all of the same host
    #[arg(required = true)]
    urls: Vec<String>,
}

pub(crate) fn main(args: Args) -> Result<ExitCode, Error> {
    if let Some(core) = args.core {
        cpu::pin(core)?;
    }
    let body = args.body_file.as_ref().map(fs::read).transpose()?;
    let (target, heads) = heads(&args, body.as_deref())?;
    let mut engine = Engine::new(Settings {
        target,
        sources: args.source,
        connections: args.connections,
        timeout: Duration::from_secs(30),
    })?;
    let mut template = Request::new(Bytes::new(), Instant::now());
    template.body = body.map(Bytes::from).into_iter().collect();
    let mut requests: Vec<Request> = heads
        .into_iter()
        .map(|head| Request {
            head,
            ..template.clone()
        })
        .collect();
    if args.verify {
        for request in &mut requests {
            request.answer = Answer::Equals(std::sync::Arc::new(fetch(target, request.clone())?));
        }
    }
    let in_turn = |number: u64| requests[number as usize % requests.len()].clone();
    let mut load = Closed::new(in_turn, 0, Duration::from_secs_f64(args.seconds))?;
    engine.run(&mut load)?;
    load.report(&mut io::stdout())?;
    Ok(if load.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the address of the URLs' host and the request head for each URL.
fn heads(args: &Args, body: Option<&[u8]>) -> Result<(SocketAddr, Vec<Bytes>), Error> {
    let mut host = None;
    let mut heads = Vec::new();
    for url in &args.urls {
        let rest = url
            .strip_prefix("http://")
            .ok_or("a URL must start with http://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.get_or_insert(authority) != &authority {
            return Err("all URLs must have the same host".into());
        }
        let path = if path.is_empty() { "/" } else { path };
        let mut head = format!("{} {path} HTTP/1.1\r\nHost: {authority}\r\n", args.method);
        for header in &args.header {
            head.push_str(header);
            head.push_str("\r\n");
        }
        if let Some(body) = body {
            head.push_str(&format!(
                "Content-Type: {}\r\nContent-Length: {}\r\n",
                args.content_type,
                body.len()
            ));
        }
        head.push_str("\r\n");
        heads.push(Bytes::from(head));
    }
    let host = host.ok_or("no URL")?;
    let address = if host.contains(':') {
        host.to_socket_addrs()?.next()
    } else {
        (host, 80).to_socket_addrs()?.next()
    };
    Ok((address.ok_or("the host has no address")?, heads))
}

/// Sends one request over a new connection and returns the response body.
pub(crate) fn fetch(target: SocketAddr, mut request: Request) -> Result<Bytes, Error> {
    struct Once(Option<Request>, Result<Bytes, String>);
    impl Workload for Once {
        fn next(&mut self, _: usize, _: Instant) -> Next {
            self.0.take().map_or(Next::Stop, Next::Send)
        }
        fn done(&mut self, _: usize, outcome: &Outcome<'_>) {
            self.1 = match outcome.result {
                Ok(()) => Ok(Bytes::copy_from_slice(outcome.body)),
                Err(failure) => Err(format!(
                    "{failure} (status {}): {}",
                    outcome.status,
                    String::from_utf8_lossy(outcome.body)
                )),
            };
        }
    }
    request.answer = Answer::Collect {
        bytes_max: 256 * 1024 * 1024,
    };
    let mut once = Once(Some(request), Err("no response".to_owned()));
    Engine::new(Settings {
        target,
        sources: Vec::new(),
        connections: 1,
        timeout: Duration::from_secs(30),
    })?
    .run(&mut once)?;
    Ok(once.1?)
}

/// A closed loop of a given duration, with counts and latencies.
pub(crate) struct Closed<M> {
    make: M,
    /// Number of the next request.
    pub(crate) number: u64,
    duration: Duration,
    started: Option<Instant>,
    finished: Option<Instant>,
    /// Successful requests.
    pub(crate) count: u64,
    pub(crate) body_bytes: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Latencies of successful requests.
    pub(crate) latency_us: Histogram<u64>,
    /// Time to the first byte of successful requests.
    first_byte_us: Histogram<u64>,
    /// Connections opened for a request.
    opened: u64,
    /// Description of the first failure.
    pub(crate) first_failure: Option<String>,
}

impl<M> Closed<M> {
    /// `make` receives the number of the request to build; numbering starts at `number`.
    pub(crate) fn new(make: M, number: u64, duration: Duration) -> Result<Self, Error> {
        Ok(Self {
            make,
            number,
            duration,
            started: None,
            finished: None,
            count: 0,
            body_bytes: 0,
            failures: BTreeMap::new(),
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
            first_byte_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
            opened: 0,
            first_failure: None,
        })
    }

    /// Time from the first request to the last response.
    pub(crate) fn elapsed(&self) -> Duration {
        match (self.started, self.finished) {
            (Some(started), Some(finished)) => finished.saturating_duration_since(started),
            _ => Duration::ZERO,
        }
    }

    /// Successful requests per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed().as_secs_f64().max(1e-9)
    }

    fn report(&self, out: &mut impl Write) -> io::Result<()> {
        let seconds = self.elapsed().as_secs_f64().max(1e-9);
        writeln!(
            out,
            "{} requests in {seconds:.2} s: {:.0} requests/s, {:.1} MB/s",
            self.count,
            self.per_second(),
            self.body_bytes as f64 / seconds / 1e6
        )?;
        writeln!(
            out,
            "latency µs: p50 {}, p99 {}, p99.9 {}, max {}",
            self.latency_us.value_at_quantile(0.5),
            self.latency_us.value_at_quantile(0.99),
            self.latency_us.value_at_quantile(0.999),
            self.latency_us.max()
        )?;
        writeln!(
            out,
            "first byte µs: p50 {}, p99 {}; {} connections opened",
            self.first_byte_us.value_at_quantile(0.5),
            self.first_byte_us.value_at_quantile(0.99),
            self.opened
        )?;
        if self.failures.is_empty() {
            return writeln!(out, "errors: none");
        }
        for (failure, count) in &self.failures {
            writeln!(out, "errors: {count} × {failure}")?;
        }
        writeln!(
            out,
            "first error: {}",
            self.first_failure.as_deref().unwrap_or_default()
        )
    }
}

impl<M: FnMut(u64) -> Request> Workload for Closed<M> {
    fn next(&mut self, _: usize, now: Instant) -> Next {
        if now.duration_since(*self.started.get_or_insert(now)) >= self.duration {
            return Next::Stop;
        }
        let mut request = (self.make)(self.number);
        self.number += 1;
        request.intended = now;
        Next::Send(request)
    }

    fn done(&mut self, _: usize, outcome: &Outcome<'_>) {
        self.finished = Some(outcome.finished);
        self.opened += u64::from(outcome.is_new_connection);
        match outcome.result {
            Ok(()) => {
                self.count += 1;
                self.body_bytes += outcome.body_bytes;
                let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(us(outcome.latency()));
                if let Some(first_byte) = outcome.first_byte {
                    let wait = first_byte.saturating_duration_since(outcome.request.intended);
                    self.first_byte_us.saturating_record(us(wait));
                }
            }
            Err(failure) => {
                *self.failures.entry(failure).or_default() += 1;
                self.first_failure.get_or_insert_with(|| {
                    format!(
                        "{failure}, status {}, {} bytes: {}",
                        outcome.status,
                        outcome.body_bytes,
                        String::from_utf8_lossy(outcome.body)
                    )
                });
            }
        }
    }
}

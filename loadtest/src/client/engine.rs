//! The event loop: asks the workload for requests, waits for events and enforces timeouts.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, Event, EventData, EventFlags},
    },
    io::Errno,
    thread::set_current_timer_slack,
};

use super::{
    Failure, Next, Request, Workload,
    connection::{Connection, Progress, Scratch},
};

/// Events handled per wait: few, so that a due arrival is not delayed by the events before it.
const EVENTS_MAX: usize = 64;
/// The loop stops sleeping this long before a deadline and polls instead, because waking up takes that long.
const SPIN: Duration = Duration::from_micros(50);
/// Interval of the check for timed-out requests.
const TIMEOUT_CHECK: Duration = Duration::from_millis(100);
/// Pause of a connection that could not be opened.
const CONNECT_REST: Duration = Duration::from_millis(10);

/// Connections opened at once in `connect_all`: no more than a server's backlog holds.
const CONNECTS_MAX: usize = 128;

/// Settings of an engine.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: SocketAddr,
    /// Local addresses to use in turn; if empty, the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) connections: usize,
    /// Timeout of one request, including connecting.
    pub(crate) timeout: Duration,
}

/// The connections of one thread. They are opened on first use and stay open between runs.
pub(crate) struct Engine {
    settings: Settings,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// How often each connection was opened. An event of a closed socket carries an older number.
    openings: Vec<u32>,
    scratch: Scratch,
    /// Connections to ask now.
    ready: VecDeque<usize>,
    /// Connections that wait until the workload has something due.
    idle: VecDeque<usize>,
    sleeping: BinaryHeap<Reverse<(Instant, usize)>>,
    in_flight: usize,
    checked: Instant,
}

impl Engine {
    pub(crate) fn new(settings: Settings) -> io::Result<Self> {
        let source = |connection: usize| {
            let sources = &settings.sources;
            (!sources.is_empty()).then(|| sources[connection % sources.len()])
        };
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: (0..settings.connections)
                .map(|connection| Connection::new(source(connection)))
                .collect(),
            openings: vec![0; settings.connections],
            scratch: Scratch::new(),
            ready: VecDeque::new(),
            idle: VecDeque::new(),
            sleeping: BinaryHeap::new(),
            in_flight: 0,
            checked: Instant::now(),
            settings,
        })
    }

    /// Runs until `workload` has stopped every connection. An error comes from this process (for example, no
    /// descriptors left), or from a workload that leaves all connections idle with nothing due. Errors of servers are
    /// in the outcomes.
    pub(crate) fn run<W: Workload>(&mut self, workload: &mut W) -> io::Result<()> {
        // The default timer slack of 50 µs would show up in the latencies.
        set_current_timer_slack(NonZeroU64::new(1))?;
        self.ready = (0..self.connections.len()).collect();
        self.idle.clear();
        self.sleeping.clear();
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.ask_ready(workload)?;
            self.ask_idle(workload)?;
            if self.in_flight == 0 && self.sleeping.is_empty() && self.idle.is_empty() {
                return Ok(());
            }
            self.wait(&mut events, workload)?;
            for event in events.drain(..) {
                self.serve(event, workload);
            }
            self.wake_sleeping();
            self.check_timeouts(workload);
        }
    }

    /// Opens all closed connections without sending anything.
    pub(crate) fn connect_all(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.settings.timeout;
        for first in (0..self.connections.len()).step_by(CONNECTS_MAX) {
            let last = self.connections.len().min(first + CONNECTS_MAX);
            for connection in first..last {
                if !self.connections[connection].is_open() {
                    self.open(connection)?;
                }
            }
            while !self.connections[first..last]
                .iter()
                .all(Connection::is_connected)
            {
                if Instant::now() > deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Number of open connections. A close by the peer is noticed only during a run.
    pub(crate) fn open_connections(&self) -> usize {
        self.connections.iter().filter(|has| has.is_open()).count()
    }

    fn ask_ready<W: Workload>(&mut self, workload: &mut W) -> io::Result<()> {
        while let Some(connection) = self.ready.pop_front() {
            self.ask(connection, workload)?;
        }
        Ok(())
    }

    /// Offers due work to the connections that have waited longest.
    fn ask_idle<W: Workload>(&mut self, workload: &mut W) -> io::Result<()> {
        while !self.idle.is_empty() && workload.due().is_some_and(|due| due <= Instant::now()) {
            let Some(connection) = self.idle.pop_front() else {
                break;
            };
            if self.ask(connection, workload)? {
                // No work for this connection, so none for the others. It keeps its position.
                if self.idle.back() == Some(&connection) {
                    self.idle.rotate_right(1);
                }
                break;
            }
            self.ask_ready(workload)?;
        }
        Ok(())
    }

    /// Asks one connection. Returns whether it had nothing to do.
    fn ask<W: Workload>(&mut self, connection: usize, workload: &mut W) -> io::Result<bool> {
        let now = Instant::now();
        match workload.next(connection, now) {
            Next::Send(request) => self.begin(connection, request, now, workload)?,
            Next::Idle => {
                self.idle.push_back(connection);
                return Ok(true);
            }
            Next::SleepUntil(moment) => self.sleeping.push(Reverse((moment, connection))),
            Next::Stop => {}
        }
        Ok(false)
    }

    fn begin<W: Workload>(
        &mut self,
        connection: usize,
        request: Request,
        now: Instant,
        workload: &mut W,
    ) -> io::Result<()> {
        let it = &mut self.connections[connection];
        let is_new = !it.is_open();
        it.begin(request, now, is_new);
        self.in_flight += 1;
        if is_new {
            match self.open(connection) {
                Ok(()) => {}
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::ACCESS)) => {
                    return Err(error.into());
                }
                Err(_) => self.end(connection, Err(Failure::Connect), workload),
            }
            // Sent when the socket reports that it is connected.
            return Ok(());
        }
        self.advance(connection, workload);
        Ok(())
    }

    fn open(&mut self, connection: usize) -> Result<(), Errno> {
        let socket = self.connections[connection].open(self.settings.target)?;
        self.openings[connection] = self.openings[connection].wrapping_add(1);
        let data = u64::from(self.openings[connection]) << 32 | connection as u64;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(data), flags)
    }

    fn advance<W: Workload>(&mut self, connection: usize, workload: &mut W) {
        let progress = self.connections[connection].advance(&mut self.scratch);
        if let Progress::Ended(result) = progress {
            self.end(connection, result, workload);
        }
    }

    fn end<W: Workload>(
        &mut self,
        connection: usize,
        result: Result<(), Failure>,
        workload: &mut W,
    ) {
        let now = Instant::now();
        self.in_flight -= 1;
        self.connections[connection].finish(result, now, |outcome| {
            workload.done(connection, outcome);
        });
        if result == Err(Failure::Connect) {
            self.sleeping
                .push(Reverse((now + CONNECT_REST, connection)));
        } else {
            self.ready.push_back(connection);
        }
    }

    fn serve<W: Workload>(&mut self, event: Event, workload: &mut W) {
        let data = event.data.u64();
        let connection = (data & u64::from(u32::MAX)) as usize;
        if u64::from(self.openings[connection]) != data >> 32 {
            return;
        }
        let it = &mut self.connections[connection];
        let flags = event.flags;
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            it.peer_closed();
        }
        if it.started().is_some() {
            self.advance(connection, workload);
        } else if flags
            .intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            // Closed while idle, or unexpected bytes. The next request opens a new connection.
            it.close();
        }
    }

    fn wake_sleeping(&mut self) {
        if self.sleeping.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((moment, connection))) = self.sleeping.peek().copied() {
            if moment > now {
                break;
            }
            self.sleeping.pop();
            self.ready.push_back(connection);
        }
    }

    fn check_timeouts<W: Workload>(&mut self, workload: &mut W) {
        let now = Instant::now();
        if now.duration_since(self.checked) < TIMEOUT_CHECK {
            return;
        }
        self.checked = now;
        for connection in 0..self.connections.len() {
            let started = self.connections[connection].started();
            if started.is_some_and(|started| {
                now.saturating_duration_since(started) > self.settings.timeout
            }) {
                self.end(connection, Err(Failure::TimedOut), workload);
            }
        }
    }

    /// Waits for events, or until something is due without one.
    fn wait<W: Workload>(&self, events: &mut Vec<Event>, workload: &mut W) -> io::Result<()> {
        let now = Instant::now();
        let due = if self.idle.is_empty() {
            None
        } else {
            workload.due()
        };
        let awake = self.sleeping.peek().map(|Reverse((moment, _))| *moment);
        let check = (self.in_flight > 0).then(|| self.checked + TIMEOUT_CHECK);
        let exact = due.into_iter().chain(awake).min();
        let wait = match (exact, check) {
            // Some connections that ended an exchange still have to be asked.
            _ if !self.ready.is_empty() => Duration::ZERO,
            (Some(exact), check) => {
                let exact = exact.saturating_duration_since(now).saturating_sub(SPIN);
                check.map_or(exact, |check| {
                    exact.min(check.saturating_duration_since(now))
                })
            }
            (None, Some(check)) => check.saturating_duration_since(now),
            (None, None) => {
                return Err(io::Error::other(
                    "all connections are idle and nothing is due",
                ));
            }
        };
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

//! A handler for tests, and a server with it on a free port.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::atomic::AtomicUsize,
    task::{Context, Poll},
};

use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::{net::TcpStream as Client, sync::Semaphore, task::JoinSet, time::timeout};

use super::{super::*, PATIENCE};
use crate::server::{endpoint::Endpoint, listener};

/// Answers by path: `/early` without reading, `/gate` half a body and the rest when the gate opens,
/// `/huge` more than sockets hold, `/panic` never, anything else with the length of the body it read.
pub(super) struct Toy {
    pub(super) gate: Arc<Semaphore>,
    pub(super) calls: AtomicUsize,
}

/// This body has no file.
impl crate::delivery::FileBody for Pieces {
    fn lend_to(&mut self, _: &Arc<Loans>) {}
    fn copy_out(&mut self, _: &Arc<crate::limit::Client>) {}
}

impl Handle for Toy {
    type Body = Pieces;

    async fn handle(
        &self,
        connection: &Arc<ConnectionInfo>,
        request: Request<Incoming>,
    ) -> Response<Pieces> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match request.uri().path() {
            "/early" => {
                connection.set_linger();
                let mut response = Response::new(Pieces::text("too large"));
                *response.status_mut() = hyper::StatusCode::PAYLOAD_TOO_LARGE;
                response
            }
            "/gate" => Response::new(Pieces {
                left: 2,
                chunk: Bytes::from_static(b"half."),
                gate: Some(self.gate.clone()),
            }),
            "/huge" => Response::new(Pieces {
                left: 256,
                chunk: vec![b'x'; 1 << 18].into(),
                gate: None,
            }),
            "/panic" => panic!("expected by the test"),
            _ => match request.into_body().collect().await {
                Ok(body) => Response::new(Pieces::text(&format!("read {}", body.to_bytes().len()))),
                Err(_) => Response::new(Pieces::text("broken off")),
            },
        }
    }
}

/// A body of equal pieces. If there is a gate, it must be open before the last piece.
pub(super) struct Pieces {
    left: u64,
    chunk: Bytes,
    gate: Option<Arc<Semaphore>>,
}

impl Pieces {
    fn text(text: &str) -> Self {
        Self {
            left: 1,
            chunk: Bytes::copy_from_slice(text.as_bytes()),
            gate: None,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.left == 1
            && let Some(gate) = &self.gate
            && gate.try_acquire().is_err()
        {
            // Polling is fine here: the test opens the gate at once.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left * self.chunk.len() as u64)
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) toy: Arc<Toy>,
    pub(super) shutdown: Shutdown,
    pub(super) running: JoinSet<()>,
}

impl Server {
    pub(super) fn start(config: listener::Config) -> Self {
        let free: Endpoint = "127.0.0.1:0".parse().unwrap();
        let listeners = listener::bind(&[free.clone(), free], |_| None).unwrap();
        let address = listeners[1].endpoint().address().unwrap();
        let toy = Arc::new(Toy {
            gate: Arc::new(Semaphore::new(0)),
            calls: AtomicUsize::new(0),
        });
        let shutdown = Shutdown::new();
        let mut running = JoinSet::new();
        running.spawn(listener::serve(
            listeners,
            None,
            toy.clone(),
            config,
            Arc::default(),
            Arc::default(),
            shutdown.clone(),
        ));
        Self {
            address,
            toy,
            shutdown,
            running,
        }
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = listener::Config::default();
        change(&mut config.connection);
        Self::start(config)
    }

    pub(super) async fn connect(&self) -> Client {
        Client::connect(self.address).await.unwrap()
    }

    pub(super) async fn stop(mut self) {
        self.shutdown.trigger();
        timeout(PATIENCE, self.running.join_next())
            .await
            .expect("the server stops")
            .unwrap()
            .unwrap();
    }
}

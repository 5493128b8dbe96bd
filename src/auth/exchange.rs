//! Exchanges with the servers of the tenants, for the hook and for introspection: one request and its small response.
//!
//! Concurrent exchanges are bounded, and shared fairly by tenant and client, so that a server that hangs leaves room for
//! those of other tenants. What is asked, and how an answer is understood, is up to the callers.

use hyper::{Request, Uri};
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    fair_queue::{self, Claimant, FairQueue},
    http_client::{self, HttpClient, RequestBody},
};

/// `User-Agent` of all requests.
pub(super) const USER_AGENT: &str = concat!("chatfiles/", env!("CARGO_PKG_VERSION"));

/// Why an exchange has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did not start: the queue is full, and the tenant or the client has most of it.
    Refused,
    /// A text for the log. It contains neither the URL nor a secret.
    Failed(String),
}

/// Runs exchanges.
pub(super) struct Exchanges {
    /// Running and waiting exchanges.
    queue: FairQueue,
    /// Running exchanges, and those that have ended since the last one started.
    running: Mutex<JoinSet<()>>,
}

impl Exchanges {
    /// At most `in_flight_max` run at once, half of them for one tenant, and `waiting_max` wait.
    pub(super) fn new(in_flight_max: usize, waiting_max: usize) -> Self {
        Self {
            queue: FairQueue::new(fair_queue::Config {
                jobs_max: in_flight_max,
                tenant_jobs_max: in_flight_max.div_ceil(2),
                waiting_max,
                ..fair_queue::Config::default()
            }),
            running: Mutex::default(),
        }
    }

    /// Waits for a turn, runs `exchange`, and returns its result. `exchange` must end by a deadline of its own.
    ///
    /// # Errors
    /// [`Failure`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue. An exchange that runs counts until its end, so that callers that give up
    /// cannot start more of them.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        claimant: Claimant,
        exchange: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = self.queue.acquire(claimant, 0).await;
        let permit = permit.map_err(|_| Failure::Refused)?;
        let (sender, answer) = oneshot::channel();
        let exchange = async move {
            let answered = exchange.await;
            drop(permit);
            let _ = sender.send(answered);
        };
        {
            let mut running = self.running.lock();
            while running.try_join_next().is_some() {}
            running.spawn(exchange);
        }
        // The message of a panic is not logged, since it might contain a secret.
        let answered = answer
            .await
            .unwrap_or_else(|_| Err("the exchange did not end".into()));
        answered.map_err(Failure::Failed)
    }

    /// The load at this moment.
    #[cfg(test)]
    pub(super) fn levels(&self) -> fair_queue::Levels {
        self.queue.levels()
    }
}

/// Sends a request that changes nothing, and reads a response with status 200 and at most `body_bytes_max` bytes. It is sent
/// a second time, over a new connection, only if the server closed the connection before it answered.
///
/// # Errors
/// A text for the log that says why there is no answer. It contains neither the URL nor a header.
pub(super) async fn send(
    client: &HttpClient,
    request: impl Fn() -> Result<Request<RequestBody>, http_client::Error>,
    body_bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let described = |error: http_client::Error| error.to_string();
    let sent = match client.send(request().map_err(described)?).await {
        // Other kept connections may be closed too.
        Err(http_client::Error::Closed) => {
            let again = request().map_err(described)?;
            client.send_on_new_connection(again).await
        }
        sent => sent,
    };
    let response = sent.map_err(described)?;
    if response.status() != 200 {
        return Err(format!("status {}", response.status().as_u16()));
    }
    let body = http_client::read_body(response.into_body(), body_bytes_max).await;
    body.map_err(described)
}

/// The host of a URL, which is the part that may be logged.
pub(super) fn host(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host);
    host.unwrap_or("an unreadable address").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_only_the_host() {
        for (url, shown) in [
            ("https://u:p@chat.example:8443/a/b?key=k#f", "chat.example"),
            ("http://[::1]:80/?key=k", "[::1]"),
            ("/a?key=k", "an unreadable address"),
            ("http://a b/?key=k", "an unreadable address"),
        ] {
            assert_eq!(host(url), shown);
        }
    }
}

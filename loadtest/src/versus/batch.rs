//! Sends each of a list of requests once, as fast as the connections allow: to fill a server, to warm it up, or to ask
//! one question.

use std::time::Instant;

use crate::{
    Error,
    client::{Engine, Next, Outcome, Request, Workload},
};

/// Sends all `requests` over the engine's connections and passes each response to `each`. Stops at the first request
/// that fails or that `each` rejects.
pub(crate) fn batch(
    engine: &mut Engine,
    requests: impl Iterator<Item = Request>,
    each: impl FnMut(&Outcome<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut batch = Batch {
        requests,
        each,
        error: None,
    };
    engine.run(&mut batch)?;
    batch.error.map_or(Ok(()), Err)
}

struct Batch<I, F> {
    requests: I,
    each: F,
    error: Option<Error>,
}

impl<I, F> Workload for Batch<I, F>
where
    I: Iterator<Item = Request>,
    F: FnMut(&Outcome<'_>) -> Result<(), Error>,
{
    fn next(&mut self, _: usize, now: Instant) -> Next {
        if self.error.is_some() {
            return Next::Stop;
        }
        self.requests.next().map_or(Next::Stop, |mut request| {
            request.intended = now;
            Next::Send(request)
        })
    }

    fn done(&mut self, _: usize, outcome: &Outcome<'_>) {
        let result = match outcome.result {
            Ok(()) => (self.each)(outcome),
            Err(failure) => Err(format!(
                "{failure}, status {}: {}",
                outcome.status,
                String::from_utf8_lossy(outcome.body)
            )
            .into()),
        };
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

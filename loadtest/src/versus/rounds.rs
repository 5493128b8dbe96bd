//! Measures servers in rounds: they take turns, and each turn is measured on both sides.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{Bench, closed::Closed, process::Process};
use crate::{
    Error,
    client::{Engine, Request, Settings},
};

/// A server and the requests that it gets in turn.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    process: &'a Process,
    engine: Engine,
    requests: Vec<Request>,
}

/// The result of one turn of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    /// CPU of the server per request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Share of its core that the client used. Near 1, the client limits `per_second`.
    pub(crate) client_share: f64,
    pub(crate) p99_us: f64,
}

/// Median, minimum and maximum of some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Computes the spread of at least one value.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        Self {
            median: (values[last / 2] + values[last.div_ceil(2)]) / 2.0,
            low: values[0],
            high: values[last],
        }
    }

    /// The spread of a single value.
    pub(crate) fn once(value: f64) -> Self {
        Self::of(std::iter::once(value))
    }

    /// The spread of the ratios of samples from the same rounds.
    pub(crate) fn ratio(over: &[Sample], under: &[Sample], of: fn(&Sample) -> f64) -> Self {
        Self::of(
            over.iter()
                .zip(under)
                .map(|(over, under)| of(over) / of(under)),
        )
    }
}

impl<'a> Contender<'a> {
    pub(crate) fn new(
        bench: &Bench,
        name: impl Into<String>,
        process: &'a Process,
        target: std::net::SocketAddr,
        connections: usize,
        requests: Vec<Request>,
    ) -> Result<Self, Error> {
        Ok(Self {
            name: name.into(),
            process,
            engine: Engine::new(settings(bench, target, connections))?,
            requests,
        })
    }

    fn turn(&mut self, bench: &Bench) -> Result<Sample, Error> {
        let requests = &self.requests;
        let in_turn = |number: u64| requests[number as usize % requests.len()].clone();
        turn(bench, self.process, &mut self.engine, in_turn)
            .map_err(|error| format!("{}: {error}", self.name).into())
    }
}

/// Runs one turn: a warm-up, then the measurement. An error of the server ends the run, because the figures would not
/// be comparable.
pub(crate) fn turn(
    bench: &Bench,
    process: &Process,
    engine: &mut Engine,
    make: impl Fn(u64) -> Request,
) -> Result<Sample, Error> {
    let mut number = 0;
    let mut load = |duration| -> Result<Closed<_>, Error> {
        let mut load = Closed::new(&make, number, duration)?;
        engine.run(&mut load)?;
        number = load.number;
        match &load.first_failure {
            Some(failure) => Err(format!("{failure}\n{}", process.said()).into()),
            None => Ok(load),
        }
    };
    load(bench.warm_up)?;
    let server_before = process.cpu()?;
    let client_before = client_cpu();
    let load = load(bench.round)?;
    let client = client_cpu().saturating_sub(client_before);
    let server = process.cpu()?.saturating_sub(server_before);
    Ok(Sample {
        per_second: load.per_second(),
        cpu_us: server.as_secs_f64() * 1e6 / load.count.max(1) as f64,
        client_share: client.as_secs_f64() / load.elapsed().as_secs_f64().max(1e-9),
        p99_us: load.latency_us.value_at_quantile(0.99) as f64,
    })
}

/// Runs all rounds and returns the samples of each contender.
pub(crate) fn rounds(
    bench: &Bench,
    contenders: &mut [Contender<'_>],
) -> Result<Vec<Vec<Sample>>, Error> {
    let mut samples = vec![Vec::with_capacity(bench.rounds); contenders.len()];
    for _ in 0..bench.rounds {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            samples.push(contender.turn(bench)?);
        }
    }
    Ok(samples)
}

/// Engine settings for a server of this bench.
pub(crate) fn settings(
    bench: &Bench,
    target: std::net::SocketAddr,
    connections: usize,
) -> Settings {
    Settings {
        target,
        sources: bench.sources(),
        connections,
        timeout: Duration::from_secs(30),
    }
}

/// CPU time of this thread.
fn client_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_count_is_mean() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let expected = Spread {
            median: 2.5,
            low: 1.0,
            high: 9.0,
        };
        assert_eq!(spread(&[9.0, 2.0, 1.0, 3.0]), expected);
        let expected = Spread {
            median: 2.0,
            low: 1.0,
            high: 9.0,
        };
        assert_eq!(spread(&[9.0, 2.0, 1.0]), expected);
        assert_eq!(spread(&[4.0]), Spread::once(4.0));
    }
}

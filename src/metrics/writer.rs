//! Writes metric families in Prometheus's text format. `families.rs` says which families there are.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::durations::Distribution;

/// A label's name and value.
pub(super) type Pair<'a> = (&'a str, &'a str);

/// Writes families one after another.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

impl<'a> Families<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    pub(super) fn build(&mut self) -> fmt::Result {
        let help = "Version of the server; the value is always 1.";
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        self.0
            .encode_descriptor("build", help, None, MetricType::Info)?
            .encode_info(&labels)
    }

    /// Begins a family with its help text.
    pub(super) fn help<'f>(&'f mut self, help: &'f str) -> Family<'f, 'a> {
        Family {
            encoder: &mut self.0,
            help,
        }
    }
}

/// A family that is still to be written.
pub(super) struct Family<'f, 'a> {
    encoder: &'f mut DescriptorEncoder<'a>,
    help: &'f str,
}

impl Family<'_, '_> {
    /// Writes a gauge without labels.
    pub(super) fn level(self, name: &str, number: u64) -> fmt::Result {
        self.gauge(name, [([], number)])
    }

    /// Writes a counter without labels.
    pub(super) fn total(self, name: &str, number: u64) -> fmt::Result {
        self.counter(name, [([], number)])
    }

    pub(super) fn gauge<'l, const N: usize>(
        self,
        name: &str,
        samples: impl IntoIterator<Item = ([Pair<'l>; N], u64)>,
    ) -> fmt::Result {
        let write = |mut encoder: MetricEncoder<'_>, number: u64| encoder.encode_gauge(&number);
        self.write(name, MetricType::Gauge, samples, write)
    }

    /// Writes a counter. The library appends `_total` to the name.
    pub(super) fn counter<'l, const N: usize>(
        self,
        name: &str,
        samples: impl IntoIterator<Item = ([Pair<'l>; N], u64)>,
    ) -> fmt::Result {
        let write = |mut encoder: MetricEncoder<'_>, number: u64| {
            encoder.encode_counter::<NoLabelSet, u64, u64>(&number, None)
        };
        self.write(name, MetricType::Counter, samples, write)
    }

    pub(super) fn histogram<'l, 'd>(
        self,
        name: &str,
        samples: impl IntoIterator<Item = ([Pair<'l>; 1], &'d Distribution)>,
    ) -> fmt::Result {
        let write = |mut encoder: MetricEncoder<'_>, distribution: &Distribution| {
            let (sum, count) = (distribution.sum_seconds(), distribution.count());
            encoder.encode_histogram::<NoLabelSet>(sum, count, &distribution.buckets(), None)
        };
        self.write(name, MetricType::Histogram, samples, write)
    }

    fn write<L: EncodeLabelSet, V>(
        self,
        name: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (L, V)>,
        mut write: impl FnMut(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self
            .encoder
            .encode_descriptor(name, self.help, None, kind)?;
        for (labels, value) in samples {
            write(encoder.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

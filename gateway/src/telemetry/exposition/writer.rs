//! `Writer` writes one metric with its values.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::histogram::{BOUNDS, Observed, Sizes, Times};

/// Writes metrics of every kind, one after the other.
pub(super) struct Writer<'e, 'w>(pub(super) &'e mut DescriptorEncoder<'w>);

impl Writer<'_, '_> {
    pub(super) fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    pub(super) fn family<const N: usize, V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, V); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    pub(super) fn gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, &'a str); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub(super) fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(value.as_secs_f64()).encode(encoder)
    }

    pub(super) fn seconds_counter(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(value.as_secs_f64()).encode(encoder)
    }

    /// Writes a histogram of durations.
    pub(super) fn times(&mut self, name: &str, help: &str, observed: &Observed) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encode_times(encoder, observed)
    }

    /// Writes a histogram of durations for each label.
    pub(super) fn times_family<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, &'a str); N], &'a Observed)>,
    ) -> fmt::Result {
        let mut encoder =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, observed) in values {
            encode_times(encoder.encode_family(&labels)?, observed)?;
        }
        Ok(())
    }

    /// Writes a histogram of bytes.
    pub(super) fn sizes(&mut self, name: &str, help: &str, observed: &Observed) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Histogram)?;
        encode_histogram(encoder, observed, observed.sum as f64, Sizes::bounds().map(|bound| bound as f64))
    }

    /// Writes a gauge with one value for each entry of a list, labelled with its index.
    pub(super) fn durations(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Iterator<Item = Duration>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (place, value) in values.enumerate() {
            ConstGauge::new(value.as_secs_f64()).encode(encoder.encode_family(&[(label, place)])?)?;
        }
        Ok(())
    }

    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [(&str, &str); N],
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        encoder.encode_info(&labels)
    }
}

fn encode_times(encoder: MetricEncoder<'_>, observed: &Observed) -> fmt::Result {
    let sum = Duration::from_nanos(observed.sum).as_secs_f64();
    encode_histogram(encoder, observed, sum, Times::bounds().map(|bound| bound.as_secs_f64()))
}

/// The encoder makes the buckets cumulative.
fn encode_histogram(
    mut encoder: MetricEncoder<'_>,
    observed: &Observed,
    sum: f64,
    bounds: [f64; BOUNDS],
) -> fmt::Result {
    let bounds = bounds.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(observed.counts).collect();
    encoder.encode_histogram::<NoLabelSet>(sum, observed.count(), &buckets, None)
}

//! The page: names, what they mean, and values with labels.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use crate::Histogram;

/// What tells one value of a name from the others.
pub type Labels = Vec<(&'static str, String)>;

/// Whoever has something to show.
pub trait Measured: fmt::Debug + Send + Sync + 'static {
    /// Writes its values as they are now.
    ///
    /// # Errors
    /// Those of the page.
    fn write(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// A page that is being written.
#[derive(Debug)]
pub struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// What only grows. `_total` is added to the name.
    ///
    /// # Errors
    /// Those of the page.
    pub fn counters<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)?;
        }
        Ok(())
    }

    /// What goes up and down.
    ///
    /// # Errors
    /// Those of the page.
    pub fn gauges<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, V)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Values in buckets.
    ///
    /// # Errors
    /// Those of the page.
    pub fn histograms<'h>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, &'h Histogram)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in values {
            let (sum, buckets) = histogram.shown();
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// Puts what is measured where the crate that encodes it looks.
#[derive(Debug)]
pub(crate) struct Shown<M>(pub M);

impl<M: Measured> Collector for Shown<M> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Page(encoder))
    }
}

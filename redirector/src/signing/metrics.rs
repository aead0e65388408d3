//! Signing, for monitors.

use super::State;
use godwit_dns_plugin::dnssec::Phase;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads what the signer counts when it is asked for.
pub(super) struct Gauges {
    pub(super) state: Arc<State>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gauges({})", self.state.zone)
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.counters(&mut encoder)?;
        self.held(&mut encoder)?;
        self.keys(&mut encoder)
    }
}

impl Gauges {
    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.state.store.counts();
        let counters: [(&str, &str, &AtomicU64); 5] = [
            ("signatures_made", "Signatures made", &counts.made),
            ("signatures_found", "Signatures found in the cache", &counts.found),
            (
                "signatures_refreshed",
                "Signatures made in place of one that was about to end",
                &counts.refreshed,
            ),
            ("signing_refused", "Replies not signed: too many names that nobody set up", &counts.refused),
            ("signing_failures", "Replies not signed because signing failed", &counts.failed),
        ];
        for (name, help, count) in counters {
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }

    fn held(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let held = self.state.store.held();
        let caches = ["set-up", "spare"];
        let mut entries = encoder.encode_descriptor(
            "signatures_held",
            "Signatures in the cache",
            None,
            MetricType::Gauge,
        )?;
        for (cache, (count, _)) in caches.iter().zip(held) {
            labelled(&mut entries, &[("cache", cache)], count as i64)?;
        }
        let mut bytes = encoder.encode_descriptor(
            "signatures_held_bytes",
            "Their bytes with their keys",
            None,
            MetricType::Gauge,
        )?;
        for (cache, (_, count)) in caches.iter().zip(held) {
            labelled(&mut bytes, &[("cache", cache)], count as i64)?;
        }
        let soonest = self.state.store.take_soonest_end();
        if let Some(end) = soonest {
            let left = end.as_secs() as i64 - self.state.clock.now().as_secs() as i64;
            let gauge = ConstGauge::new(left);
            let name = "signatures_soonest_end_seconds";
            let help = "Until the first end of a signature given since this was last read";
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }

    fn keys(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let current = ConstGauge::new(i64::from(self.state.current.load(Ordering::Relaxed)));
        let help = "Whether the keys in force are those in the directory";
        let descriptor =
            encoder.encode_descriptor("keys_last_read_successful", help, None, current.metric_type())?;
        current.encode(descriptor)?;
        let view = self.state.view.load_full();
        let Some(signer) = view.zone.signer() else { return Ok(()) };
        let now = self.state.clock.now();
        let help = "Since a key was published; negative before";
        let mut ages = encoder.encode_descriptor("key_age_seconds", help, None, MetricType::Gauge)?;
        for key in signer.keys() {
            let phase = key.times.phase(now);
            if phase == Phase::Removed {
                continue;
            }
            let (tag, phase) = (key.public().tag().to_string(), phase.to_string());
            let age = now.as_secs() as i64 - key.times.published.as_secs() as i64;
            labelled(&mut ages, &[("tag", &tag), ("role", key.role.as_str()), ("phase", &phase)], age)?;
        }
        Ok(())
    }
}

fn labelled(encoder: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: i64) -> Result<(), fmt::Error> {
    let labels: Vec<(&str, &str)> = labels.to_vec();
    ConstGauge::new(value).encode(encoder.encode_family(&labels)?)
}

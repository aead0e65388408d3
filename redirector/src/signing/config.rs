//! `[dnssec]`.

use godwit_dns_plugin::dnssec::{ColdLimits, Options};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Signing the zone's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnssecConfig {
    /// The directory of the zone's keys, as `godwit dnssec generate` makes it; the same files on
    /// every redirector. Not set: the zone is not signed.
    pub keys: Option<PathBuf>,
    /// Seconds that a signature is valid; it is replaced when a quarter is left. Default 604,800: a
    /// week. A shorter one bounds better how long an old answer can be replayed, a longer one how
    /// long all redirectors may have a wrong clock.
    pub validity_secs: u64,
    /// Seconds that DNSKEY, CDS and CDNSKEY may be kept. Default 3,600: rollovers wait for it.
    pub dnskey_ttl_secs: u32,
    /// Memory for signatures of names that exist, MiB. Default 64: some 180,000.
    pub cache_mib: usize,
    /// Memory for signatures of names that nobody set up, MiB. Default 8.
    pub spare_cache_mib: usize,
    /// New signatures a second for names that nobody set up: over UDP, and as many again over
    /// connections. Beyond it such names are answered truncated, and then SERVFAIL. Default 5,000:
    /// a tenth of one processor.
    pub cold_per_second: u32,
    /// Of these, for one source prefix (IPv4 /24, IPv6 /56). Default 200.
    pub cold_per_prefix_per_second: u32,
}

impl Default for DnssecConfig {
    fn default() -> DnssecConfig {
        let Options { validity, ttl, cache_bytes, spare_bytes, cold } = Options::default();
        DnssecConfig {
            keys: None,
            validity_secs: validity.as_secs(),
            dnskey_ttl_secs: ttl.as_secs() as u32,
            cache_mib: cache_bytes >> 20,
            spare_cache_mib: spare_bytes >> 20,
            cold_per_second: cold.per_second,
            cold_per_prefix_per_second: cold.per_prefix_per_second,
        }
    }
}

impl DnssecConfig {
    /// How answers are signed.
    pub fn options(&self) -> Options {
        Options {
            validity: Duration::from_secs(self.validity_secs),
            ttl: Duration::from_secs(self.dnskey_ttl_secs.into()),
            cache_bytes: self.cache_mib.saturating_mul(1 << 20),
            spare_bytes: self.spare_cache_mib.saturating_mul(1 << 20),
            cold: ColdLimits {
                per_second: self.cold_per_second,
                per_prefix_per_second: self.cold_per_prefix_per_second,
            },
        }
    }

    /// Checks what types cannot, beside `ttl_max_secs`, the longest TTL of the zone; gives the key
    /// within `[dnssec]` and what is wrong with its value.
    pub fn check(&self, ttl_max_secs: u32) -> Result<(), (&'static str, String)> {
        // RFC 6781, 4.4.2: what is kept must not outlive its signature, and a quarter is left of that
        // when it is replaced.
        let least = 4 * u64::from(ttl_max_secs.max(self.dnskey_ttl_secs)).max(900);
        if !(least..=366 * 86_400).contains(&self.validity_secs) {
            let problem = format!(
                "{} is not between {least} (four times the longest TTL, at least an hour) and a year",
                self.validity_secs
            );
            return Err(("validity_secs", problem));
        }
        for (key, value, range) in [
            ("cache_mib", self.cache_mib, 1..=65_536),
            ("spare_cache_mib", self.spare_cache_mib, 1..=65_536),
            ("dnskey_ttl_secs", self.dnskey_ttl_secs as usize, 1..=604_800),
        ] {
            if !range.contains(&value) {
                return Err((key, format!("{value} is not between {} and {}", range.start(), range.end())));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_holds_and_what_cannot_work_does_not() {
        assert_eq!(DnssecConfig::default().check(86_400), Ok(()));
        assert_eq!(DnssecConfig::default().options(), Options::default());
        let check = |config: DnssecConfig, ttl| config.check(ttl).map_err(|(key, _)| key);
        assert_eq!(check(DnssecConfig::default(), 200_000), Err("validity_secs"));
        let short = DnssecConfig { validity_secs: 3599, dnskey_ttl_secs: 1, ..DnssecConfig::default() };
        assert_eq!(check(short, 5), Err("validity_secs"));
        assert_eq!(check(DnssecConfig { cache_mib: 0, ..DnssecConfig::default() }, 5), Err("cache_mib"));
    }
}

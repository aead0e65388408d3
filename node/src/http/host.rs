//! Which site a request is for.

use godwit_core::name::{SiteName, ZoneName};
use http::{HeaderMap, Uri, Version, header};
use std::collections::BTreeMap;

/// The names under which sites are reached.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    zone: ZoneName,
    /// Other names, lower case.
    aliases: BTreeMap<String, SiteName>,
}

/// Why a request is for no site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSite {
    /// RFC 9112, 3.2: no host where one is required, or more than one.
    Malformed,
    /// A host that this node does not serve.
    Unknown,
}

impl Hosts {
    /// Names in `zone` and these aliases.
    pub(crate) fn new(zone: ZoneName, aliases: &BTreeMap<String, SiteName>) -> Hosts {
        let lower = |(host, site): (&String, &SiteName)| (host.to_ascii_lowercase(), site.clone());
        Hosts { zone, aliases: aliases.iter().map(lower).collect() }
    }

    /// The site that a request is for.
    pub(crate) fn site(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<SiteName, NoSite> {
        let host = host(version, uri, headers)?;
        let name = host.strip_suffix('.').unwrap_or(&host);
        self.aliases.get(name).cloned().or_else(|| self.zone.site_of(name)).ok_or(NoSite::Unknown)
    }
}

/// The host asked for, lower case and without a port.
fn host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<String, NoSite> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => Some(field.to_str().map_err(|_| NoSite::Malformed)?),
        (None, _) => None,
        // RFC 9112, 3.2: more than one Host field is answered 400.
        (Some(_), Some(_)) => return Err(NoSite::Malformed),
    };
    if field.is_none() && version == Version::HTTP_11 {
        return Err(NoSite::Malformed);
    }
    // RFC 9112, 3.2.2: an absolute target counts before Host; HTTP/2 has :authority there.
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => field.ok_or(NoSite::Unknown)?,
    };
    if authority.contains(['@', '/']) {
        return Err(NoSite::Malformed);
    }
    // An IPv6 literal keeps its brackets; it is the name of no site anyway.
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, target: &str, hosts: &[&str], expected: Result<&str, NoSite>) {
        let aliases = BTreeMap::from([("WWW.example.com".to_owned(), "www".parse().unwrap())]);
        let names = Hosts::new("edge.example.org".parse().unwrap(), &aliases);
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        let site = names.site(version, &target.parse().unwrap(), &headers);
        assert_eq!(site.as_ref().map(SiteName::as_str).map_err(|e| *e), expected, "{target} {hosts:?}");
    }

    #[test]
    fn sites_are_found_by_zone_and_alias() {
        check(Version::HTTP_11, "/", &["www.edge.example.org"], Ok("www"));
        check(Version::HTTP_11, "/", &["DOCS.edge.example.ORG.:8080"], Ok("docs"));
        check(Version::HTTP_11, "/", &["www.Example.com:80"], Ok("www"));
        check(Version::HTTP_2, "http://www.edge.example.org/", &[], Ok("www"));
    }

    #[test]
    fn rfc9110_15_5_20_other_hosts_are_misdirected() {
        check(Version::HTTP_11, "/", &["other.example"], Err(NoSite::Unknown));
        check(Version::HTTP_11, "/", &["edge.example.org"], Err(NoSite::Unknown));
        check(Version::HTTP_11, "/", &["[2001:db8::1]:80"], Err(NoSite::Unknown));
        check(Version::HTTP_10, "/", &[], Err(NoSite::Unknown));
    }

    #[test]
    fn rfc9112_3_2_host_is_there_once() {
        check(Version::HTTP_11, "/", &[], Err(NoSite::Malformed));
        check(Version::HTTP_11, "/", &["www.example.com", "www.example.com"], Err(NoSite::Malformed));
        check(Version::HTTP_11, "/", &["a@www.example.com"], Err(NoSite::Malformed));
    }

    #[test]
    fn rfc9112_3_2_2_an_absolute_target_counts_before_host() {
        check(Version::HTTP_11, "http://www.example.com/", &["other.example"], Ok("www"));
    }
}

//! What is said in the OPT record of a reply.
//!
//! RFC 6891, 6.1.1: an OPT for an OPT. Its options are answers to options of the query, in this
//! order: the client subnet as it came with the scope (RFC 7871, 7.2.1), the cookie (RFC 7873), the
//! name server's identifier (RFC 5001). The bytes are made here for every path a reply can take.

use crate::answer::Reply;
use crate::cookie::{COOKIE_LEN, Secrets};
use crate::handler::{PAYLOAD_MAX, PAYLOAD_PLAIN, compact};
use crate::screen::{HEADER_LEN, Opt, Query, Subnet};
use crate::size::Bounds;
use crate::view::View;
use arc_swap::ArcSwap;
use hickory_server::proto::op::Edns;
use hickory_server::proto::rr::rdata::opt::EdnsOption;
use std::net::IpAddr;
use std::sync::Arc;

/// RFC 7871, 6.
pub(crate) const OPTION_SUBNET: u16 = 8;
/// RFC 7873, 4.
pub(crate) const OPTION_COOKIE: u16 = 10;
/// RFC 5001, 2.3.
pub(crate) const OPTION_NSID: u16 = 3;
/// RFC 6891, 6.1.1.
pub(crate) const TYPE_OPT: u8 = 41;
/// Length of an OPT record without options.
pub(crate) const OPT_LEN: usize = 11;
/// CO among the EDNS flags after DO (RFC 9824, 5.1).
const FLAG_COMPACT_OK: u16 = 0x4000;
/// The longest identifier: a name.
const NSID_LEN_MAX: usize = 64;
/// All options of a reply at their longest.
pub const OPTIONS_LEN_MAX: usize = (4 + 4 + 16) + (4 + COOKIE_LEN) + (4 + NSID_LEN_MAX);

/// What a name server says of itself: the same for every query. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    secrets: Option<Arc<ArcSwap<Secrets>>>,
    identifier: Arc<[u8]>,
}

/// What is said to one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The cookie for it.
    cookie: Option<[u8; COOKIE_LEN]>,
    /// Whether it is told who we are.
    identify: bool,
    /// Whether it has shown that it is where it claims to be.
    pub proven: bool,
}

impl Said {
    /// What goes with a refusal: nothing that makes it longer than the query, unless to a client that
    /// is where it claims to be.
    pub fn briefly(self) -> Said {
        if self.proven { self } else { Said { cookie: None, identify: false, ..self } }
    }
}

impl Manners {
    /// With these secrets for cookies (none: no cookies), and this identifier for those who ask for
    /// one (empty: none; longer than 64 octets: cut off).
    pub fn new(secrets: Option<Secrets>, identifier: &[u8]) -> Manners {
        let identifier = identifier[..identifier.len().min(NSID_LEN_MAX)].into();
        Manners { secrets: secrets.map(|secrets| Arc::new(ArcSwap::from_pointee(secrets))), identifier }
    }

    /// Puts other secrets in place, for all clones; where cookies are off they stay off.
    pub fn change_secrets(&self, secrets: Secrets) {
        if let Some(current) = &self.secrets {
            current.store(Arc::new(secrets));
        }
    }

    /// What to say to the sender of `opt` at `client`; `now` in seconds since 1970.
    pub fn say(&self, now: u32, opt: &Opt, client: IpAddr) -> Said {
        let verified = match (&self.secrets, &opt.cookie) {
            (Some(secrets), Some(cookie)) if opt.version == 0 => {
                Some(secrets.load().verify(now, cookie, client))
            }
            _ => None,
        };
        Said {
            cookie: verified.map(|verified| verified.reply),
            identify: opt.identify && !self.identifier.is_empty(),
            proven: verified.is_some_and(|verified| verified.proven),
        }
    }

    /// What bounds the reply to `query`, which is `len` octets long.
    pub fn bounds(&self, len: usize, query: &Query, said: Option<&Said>) -> Bounds {
        let (opt, payload) = match (&query.edns, said) {
            (Some(opt), Some(said)) => {
                let payload = opt.payload.clamp(PAYLOAD_PLAIN, PAYLOAD_MAX);
                (OPT_LEN + self.options_len(opt, said), payload)
            }
            _ => (0, PAYLOAD_PLAIN),
        };
        Bounds {
            query: len,
            fixed: HEADER_LEN + query.name_len + 4 + opt,
            payload: payload.into(),
            proven: said.is_some_and(|said| said.proven),
        }
    }

    /// Writes the options of a reply into `out`; answers how long they are.
    pub fn options(&self, opt: &Opt, said: &Said, scope: u8, out: &mut [u8; OPTIONS_LEN_MAX]) -> usize {
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            out[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        if let Some(Subnet { address, source }) = opt.subnet {
            // RFC 7871, 7.2.1: for a source prefix of zero the scope is zero too.
            let scope = if source == 0 { 0 } else { scope };
            let octets = source.div_ceil(8);
            let mut head = |family| put(&[0, OPTION_SUBNET as u8, 0, 4 + octets, 0, family, source, scope]);
            match address {
                IpAddr::V4(address) => {
                    head(1);
                    put(&address.octets()[..octets.into()]);
                }
                IpAddr::V6(address) => {
                    head(2);
                    put(&address.octets()[..octets.into()]);
                }
            }
        }
        if let Some(cookie) = &said.cookie {
            put(&[0, OPTION_COOKIE as u8, 0, COOKIE_LEN as u8]);
            put(cookie);
        }
        if said.identify {
            put(&[0, OPTION_NSID as u8, 0, self.identifier.len() as u8]);
            put(&self.identifier);
        }
        len
    }

    /// How long the options of a reply are: what [`Manners::options`] answers.
    pub fn options_len(&self, opt: &Opt, said: &Said) -> usize {
        let subnet = opt.subnet.map_or(0, |subnet| 4 + 4 + usize::from(subnet.source.div_ceil(8)));
        let cookie = said.cookie.map_or(0, |cookie| 4 + cookie.len());
        subnet + cookie + if said.identify { 4 + self.identifier.len() } else { 0 }
    }

    /// The OPT record of a reply; nothing `said` where the query was in another version than ours.
    pub(crate) fn opt_record(&self, view: &View, opt: &Opt, said: Option<&Said>, reply: &Reply) -> OptRecord {
        let mut options = [0; OPTIONS_LEN_MAX];
        let len = said.map_or(0, |said| self.options(opt, said, reply.scope, &mut options));
        // RFC 3225, 3: DO is copied.
        let flags = said.map_or(0, |_| u8::from(opt.dnssec_ok) << 7 | u8::from(compact(view, opt)) << 6);
        OptRecord { head: opt_head(reply.code.high(), flags, len), options, len }
    }

    /// The same, for hickory to write.
    pub(crate) fn edns(&self, view: &View, opt: &Opt, said: Option<&Said>, reply: &Reply) -> Edns {
        let mut edns = own();
        let Some(said) = said else { return edns };
        edns.set_dnssec_ok(opt.dnssec_ok);
        if compact(view, opt) {
            edns.flags_mut().z |= FLAG_COMPACT_OK;
        }
        let mut bytes = [0; OPTIONS_LEN_MAX];
        let len = self.options(opt, said, reply.scope, &mut bytes);
        let mut rest = &bytes[..len];
        while let Some(([high, low, 0, value_len], after)) = rest.split_first_chunk() {
            let (value, next) = after.split_at((*value_len).into());
            let code = u16::from_be_bytes([*high, *low]);
            edns.options_mut().insert(EdnsOption::Unknown(code, value.to_vec()));
            rest = next;
        }
        edns
    }
}

/// An OPT record as it stands in a reply.
pub(crate) struct OptRecord {
    head: [u8; OPT_LEN],
    options: [u8; OPTIONS_LEN_MAX],
    len: usize,
}

impl OptRecord {
    /// Its octets: the head, then the options.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [&self.head, &self.options[..self.len]]
    }
}

/// Without options.
pub(crate) fn own() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_MAX).set_version(0);
    edns
}

/// Writes an OPT record head for `options_len` octets of options: root, type, payload size, the high
/// bits of the response code, version 0, the first octet of the flags.
pub fn opt_head(code_high: u8, flags: u8, options_len: usize) -> [u8; OPT_LEN] {
    let [high, low] = PAYLOAD_MAX.to_be_bytes();
    let [len_high, len_low] = (options_len as u16).to_be_bytes();
    [0, 0, TYPE_OPT, high, low, code_high, 0, flags, 0, len_high, len_low]
}

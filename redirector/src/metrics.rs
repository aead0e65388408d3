//! What is counted.

use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::RecordType;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// Counters of the redirector.
pub(crate) struct Metrics {
    queries: Family<QueryLabels, Counter>,
    dropped: Family<DropLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    pub(crate) connections: Gauge,
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Why a packet or connection was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Drop {
    /// Shorter than a header.
    Short,
    /// It was a response.
    Response,
    /// The socket's send buffer was full, or the reply could not be sent.
    Send,
    /// A connection beyond the limit of its source.
    ConnectionsOfSource,
    /// A connection beyond the limit of all.
    Connections,
    /// A connection that was silent too long.
    Idle,
}

/// What the rate limit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limited {
    /// The reply was not sent.
    Dropped,
    /// It was sent truncated.
    Slipped,
}

/// What became of a query.
pub(crate) struct Outcome {
    pub(crate) transport: Transport,
    pub(crate) kind: Option<RecordType>,
    pub(crate) code: ResponseCode,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    transport: Transport,
    kind: Kind,
    code: Code,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: Drop,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    action: Limited,
}

/// Types apart that matter apart: a label has a bounded number of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    A,
    Aaaa,
    Ns,
    Soa,
    Txt,
    Https,
    Any,
    Other,
    Unread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    BadVers,
    Other,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            queries: Family::default(),
            dropped: Family::default(),
            limited: Family::default(),
            connections: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("dns");
        registry.register(
            "queries",
            "Queries answered, by transport, type and response code",
            metrics.queries.clone(),
        );
        registry.register("drops", "Packets and connections dropped, by reason", metrics.dropped.clone());
        registry.register("limited", "Replies held back by the rate limit", metrics.limited.clone());
        registry.register("connections", "Open TCP connections", metrics.connections.clone());
        metrics
    }

    pub(crate) fn answered(&self, outcome: Outcome) {
        let kind = match outcome.kind {
            Some(RecordType::A) => Kind::A,
            Some(RecordType::AAAA) => Kind::Aaaa,
            Some(RecordType::NS) => Kind::Ns,
            Some(RecordType::SOA) => Kind::Soa,
            Some(RecordType::TXT) => Kind::Txt,
            Some(RecordType::HTTPS) => Kind::Https,
            Some(RecordType::ANY) => Kind::Any,
            Some(_) => Kind::Other,
            None => Kind::Unread,
        };
        let code = match outcome.code {
            ResponseCode::NoError => Code::NoError,
            ResponseCode::FormErr => Code::FormErr,
            ResponseCode::ServFail => Code::ServFail,
            ResponseCode::NXDomain => Code::NxDomain,
            ResponseCode::NotImp => Code::NotImp,
            ResponseCode::Refused => Code::Refused,
            ResponseCode::BADVERS => Code::BadVers,
            _ => Code::Other,
        };
        self.queries.get_or_create(&QueryLabels { transport: outcome.transport, kind, code }).inc();
    }

    pub(crate) fn dropped(&self, reason: Drop) {
        self.dropped.get_or_create(&DropLabels { reason }).inc();
    }

    pub(crate) fn limited(&self, action: Limited) {
        self.limited.get_or_create(&LimitLabels { action }).inc();
    }
}

/// Label values are public: written out here, in the words of DNS, whatever the variants are called.
macro_rules! label_values {
    ($($kind:ident { $($variant:ident => $text:literal),* $(,)? })*) => { $(
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                let text = match self { $($kind::$variant => $text),* };
                EncodeLabelValue::encode(&text, encoder)
            }
        }
    )* };
}

label_values! {
    Transport { Udp => "udp", Tcp => "tcp" }
    Drop {
        Short => "short",
        Response => "response",
        Send => "send",
        ConnectionsOfSource => "connections-of-source",
        Connections => "connections",
        Idle => "idle",
    }
    Limited { Dropped => "dropped", Slipped => "slipped" }
    Kind {
        A => "A",
        Aaaa => "AAAA",
        Ns => "NS",
        Soa => "SOA",
        Txt => "TXT",
        Https => "HTTPS",
        Any => "ANY",
        Other => "other",
        Unread => "unread",
    }
    Code {
        NoError => "NOERROR",
        FormErr => "FORMERR",
        ServFail => "SERVFAIL",
        NxDomain => "NXDOMAIN",
        NotImp => "NOTIMP",
        Refused => "REFUSED",
        BadVers => "BADVERS",
        Other => "other",
    }
}

//! What is counted.

use crate::decisions::word;
use crate::fast::respond::Sent;
use godwit_map::{Because, Generation, SiteRef, Tier};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::RecordType;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Counters of the redirector.
pub(crate) struct Metrics {
    queries: Family<QueryLabels, Counter>,
    general: Counter,
    decided: Family<DecidedLabels, Counter>,
    dropped: Family<DropLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    connections: Family<ConnectionLabels, Gauge>,
    transfers: Family<TransferLabels, Counter>,
    notifies: Family<NotifyLabels, Counter>,
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
    Https,
    Quic,
}

impl Transport {
    /// Its name, as labels have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Https => "https",
            Transport::Quic => "quic",
        }
    }
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
    /// A connection in favour of a newer one of its source.
    ConnectionsOfSource,
    /// A connection in favour of a newer one.
    Connections,
    /// A connection because the process had no descriptor left.
    Descriptors,
    /// A connection that was silent too long.
    Idle,
    /// A connection whose client did not take its replies.
    Unread,
    /// A connection with something that was no query.
    Garbage,
    /// A connection whose TLS handshake failed.
    Handshake,
    /// What answers packets panicked: a mistake of ours, told on standard error.
    Failed,
}

/// How a request for a zone transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TransferOutcome {
    Sent,
    /// The secondary had the newest already.
    UpToDate,
    Refused,
}

/// How telling a secondary of a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NotifyOutcome {
    Acknowledged,
    Unanswered,
}

/// Why the map told a client what it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) because: Because,
    pub(crate) tier: Tier,
}

impl Decision {
    const TIERS: usize = Tier::Empty as usize + 1;
    const LEN: usize = Self::TIERS * (Because::Hash as usize + 1);

    /// What `generation` decides for a client.
    pub(crate) fn of(generation: &Generation, site: SiteRef, client: IpAddr) -> Decision {
        let (because, tier) = generation.because(site, client);
        Decision { because, tier }
    }

    fn index(self) -> usize {
        self.because as usize * Self::TIERS + self.tier as usize
    }

    fn labels(self) -> DecidedLabels {
        DecidedLabels { reason: word(&self.because), tier: word(&self.tier) }
    }
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
struct DecidedLabels {
    /// In the words of `why`.
    reason: String,
    tier: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransferLabels {
    outcome: TransferOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotifyLabels {
    outcome: NotifyOutcome,
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
            general: Counter::default(),
            decided: Family::default(),
            dropped: Family::default(),
            limited: Family::default(),
            connections: Family::default(),
            transfers: Family::default(),
            notifies: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("dns");
        registry.register(
            "queries",
            "Queries answered, by transport, type and response code",
            metrics.queries.clone(),
        );
        registry.register(
            "general",
            "UDP queries that the fast path handed to the general path",
            metrics.general.clone(),
        );
        registry.register(
            "decisions",
            "Answers that the map decided, by why the first replica is the first and by which rules gave way",
            metrics.decided.clone(),
        );
        registry.register("drops", "Packets and connections dropped, by reason", metrics.dropped.clone());
        registry.register("limited", "Replies held back by the rate limit", metrics.limited.clone());
        registry.register("connections", "Open connections, by transport", metrics.connections.clone());
        registry.register("transfers", "Requests for the zone, by outcome", metrics.transfers.clone());
        registry.register("notifies", "Secondaries told of a change, by outcome", metrics.notifies.clone());
        metrics
    }

    pub(crate) fn answered(&self, outcome: Outcome) {
        let Outcome { transport, kind, code } = outcome;
        self.queries.get_or_create(&QueryLabels { transport, kind: kind.into(), code: code.into() }).inc();
    }

    /// Counts an answer that the map decided.
    pub(crate) fn decided(&self, decision: Decision) {
        self.decided.get_or_create(&decision.labels()).inc();
    }

    pub(crate) fn dropped(&self, reason: Drop) {
        self.dropped.get_or_create(&DropLabels { reason }).inc();
    }

    /// The gauge of a transport's connections.
    pub(crate) fn connections(&self, transport: Transport) -> Gauge {
        self.connections.get_or_create(&ConnectionLabels { transport }).clone()
    }

    pub(crate) fn transfer(&self, outcome: TransferOutcome) {
        self.transfers.get_or_create(&TransferLabels { outcome }).inc();
    }

    pub(crate) fn notified(&self, outcome: NotifyOutcome) {
        self.notifies.get_or_create(&NotifyLabels { outcome }).inc();
    }

    pub(crate) fn limited(&self, action: Limited) {
        self.limited.get_or_create(&LimitLabels { action }).inc();
    }
}

impl From<Option<RecordType>> for Kind {
    fn from(kind: Option<RecordType>) -> Kind {
        match kind {
            Some(RecordType::A) => Kind::A,
            Some(RecordType::AAAA) => Kind::Aaaa,
            Some(RecordType::NS) => Kind::Ns,
            Some(RecordType::SOA) => Kind::Soa,
            Some(RecordType::TXT) => Kind::Txt,
            Some(RecordType::HTTPS) => Kind::Https,
            Some(RecordType::ANY) => Kind::Any,
            Some(_) => Kind::Other,
            None => Kind::Unread,
        }
    }
}

impl From<ResponseCode> for Code {
    fn from(code: ResponseCode) -> Code {
        match code {
            ResponseCode::NoError => Code::NoError,
            ResponseCode::FormErr => Code::FormErr,
            ResponseCode::ServFail => Code::ServFail,
            ResponseCode::NXDomain => Code::NxDomain,
            ResponseCode::NotImp => Code::NotImp,
            ResponseCode::Refused => Code::Refused,
            ResponseCode::BADVERS => Code::BadVers,
            _ => Code::Other,
        }
    }
}

/// One thread's counts of answered UDP queries, not yet told.
pub(crate) struct Tally {
    metrics: Arc<Metrics>,
    /// By kind and code, each with the counter that all threads share, once there was one.
    counts: Vec<(u64, Option<Counter>)>,
    /// Which of them are above zero, one bit each.
    pending: u128,
    /// By decision, likewise.
    decided: Vec<(u64, Option<Counter>)>,
    decided_pending: u64,
    general: u64,
}

impl Tally {
    const CODES: usize = Code::Other as usize + 1;
    const LEN: usize = Self::CODES * (Kind::Unread as usize + 1);

    pub(crate) fn new(metrics: Arc<Metrics>) -> Tally {
        const { assert!(Self::LEN <= u128::BITS as usize && Decision::LEN <= u64::BITS as usize) };
        let (counts, decided) = (vec![(0, None); Self::LEN], vec![(0, None); Decision::LEN]);
        Tally { metrics, counts, pending: 0, decided, decided_pending: 0, general: 0 }
    }

    /// Counts a reply.
    pub(crate) fn answered(&mut self, sent: &Sent) {
        let (kind, code) = (Kind::from(sent.kind.map(RecordType::from)), Code::from(sent.code));
        let at = kind as usize * Self::CODES + code as usize;
        self.counts[at].0 += 1;
        if self.counts[at].1.is_none() {
            let labels = QueryLabels { transport: Transport::Udp, kind, code };
            self.counts[at].1 = Some(self.metrics.queries.get_or_create(&labels).clone());
        }
        self.pending |= 1 << at;
        self.general += u64::from(!sent.fast);
        if let Some(decision) = sent.decided {
            self.decided(decision);
        }
    }

    fn decided(&mut self, decision: Decision) {
        let at = decision.index();
        let Some((count, counter)) = self.decided.get_mut(at) else { return };
        *count += 1;
        counter.get_or_insert_with(|| self.metrics.decided.get_or_create(&decision.labels()).clone());
        self.decided_pending |= 1 << at;
    }

    /// Adds what was counted to the metrics.
    pub(crate) fn publish(&mut self) {
        while self.pending != 0 {
            let at = self.pending.trailing_zeros() as usize;
            self.pending &= self.pending - 1;
            let (count, counter) = &mut self.counts[at];
            if let Some(counter) = counter {
                counter.inc_by(std::mem::take(count));
            }
        }
        while self.decided_pending != 0 {
            let at = self.decided_pending.trailing_zeros() as usize;
            self.decided_pending &= self.decided_pending - 1;
            let (count, counter) = &mut self.decided[at];
            if let Some(counter) = counter {
                counter.inc_by(std::mem::take(count));
            }
        }
        if self.general > 0 {
            self.metrics.general.inc_by(std::mem::take(&mut self.general));
        }
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
    Transport { Udp => "udp", Tcp => "tcp", Tls => "tls", Https => "https", Quic => "quic" }
    TransferOutcome { Sent => "sent", UpToDate => "up-to-date", Refused => "refused" }
    NotifyOutcome { Acknowledged => "acknowledged", Unanswered => "unanswered" }
    Drop {
        Short => "short",
        Response => "response",
        Send => "send",
        ConnectionsOfSource => "connections-of-source",
        Connections => "connections",
        Descriptors => "descriptors",
        Idle => "idle",
        Unread => "unread",
        Garbage => "garbage",
        Handshake => "handshake",
        Failed => "failed",
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

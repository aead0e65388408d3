//! The map as a zone of any hickory server.
//!
//! Mount it in a `Catalog` under the zone's name:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # fn mount(map: godwit_map::Shared) {
//! use godwit_dns_plugin::{MapZone, Options, SharedView, Zone};
//! use hickory_server::zone_handler::{Catalog, ZoneHandler};
//!
//! let zone = Zone::new(map.load().zone(), Options::default());
//! let zone = MapZone::new(SharedView::new(map, zone));
//! let mut catalog = Catalog::new();
//! catalog.upsert(zone.origin().clone(), vec![Arc::new(zone)]);
//! # }
//! ```
//!
//! Clients are told apart by the address that asks (a resolver's, mostly). A client subnet is *not*
//! heeded here, although it could be read: the catalog cannot return a scope, and an answer for
//! one subnet without a scope would be cached for all.

use crate::answer::{Answerer, Question, Reply};
use crate::view::SharedView;
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::{DNSClass, LowerName, Name, RecordType, TSigResponseContext};
use hickory_server::server::{Request, RequestInfo};
use hickory_server::zone_handler::{
    AuthLookup, AxfrPolicy, LookupControlFlow, LookupError, LookupOptions, LookupRecords, ZoneHandler,
    ZoneTransfer, ZoneType,
};
use std::net::{IpAddr, Ipv4Addr};

/// A [`ZoneHandler`] that answers from the current view.
pub struct MapZone {
    origin: LowerName,
    shared: SharedView,
}

impl MapZone {
    /// From what is current in `shared`. The zone's name stays what it is now.
    pub fn new(shared: SharedView) -> MapZone {
        let origin = LowerName::from(shared.load().zone.origin().clone());
        MapZone { origin, shared }
    }

    fn find(&self, name: &Name, kind: RecordType, client: IpAddr) -> LookupControlFlow<AuthLookup> {
        let question = Question { name, kind, class: DNSClass::IN, client };
        let view = self.shared.load();
        let Reply { code, answers, additional, .. } = Answerer::new(&view).answer(&question);
        LookupControlFlow::Continue(match code {
            ResponseCode::NoError if answers.is_empty() => Err(LookupError::for_name_exists()),
            ResponseCode::NoError => Ok(AuthLookup::answers(
                LookupRecords::Section(answers),
                (!additional.is_empty()).then_some(LookupRecords::Section(additional)),
            )),
            other => Err(LookupError::from(other)),
        })
    }
}

#[async_trait::async_trait]
impl ZoneHandler for MapZone {
    fn zone_type(&self) -> ZoneType {
        ZoneType::Primary
    }

    fn axfr_policy(&self) -> AxfrPolicy {
        AxfrPolicy::Deny
    }

    fn origin(&self) -> &LowerName {
        &self.origin
    }

    async fn lookup(
        &self,
        name: &LowerName,
        kind: RecordType,
        info: Option<&RequestInfo<'_>>,
        _options: LookupOptions,
    ) -> LookupControlFlow<AuthLookup> {
        // The catalog asks without a client for the records around an answer (SOA, NS), which are
        // the same for everybody.
        let client = info.map_or(Ipv4Addr::UNSPECIFIED.into(), |info| info.src.ip().to_canonical());
        self.find(&Name::from(name), kind, client)
    }

    async fn search(
        &self,
        request: &Request,
        _options: LookupOptions,
    ) -> (LookupControlFlow<AuthLookup>, Option<TSigResponseContext>) {
        let found = match request.request_info() {
            Ok(info) => {
                let question = info.query.original();
                self.find(question.name(), question.query_type(), info.src.ip().to_canonical())
            }
            Err(error) => LookupControlFlow::Break(Err(error)),
        };
        (found, None)
    }

    async fn zone_transfer(
        &self,
        _request: &Request,
        _options: LookupOptions,
        _now: u64,
    ) -> Option<(Result<ZoneTransfer, LookupError>, Option<TSigResponseContext>)> {
        Some((Err(LookupError::from(ResponseCode::Refused)), None))
    }

    async fn nsec_records(&self, _: &LowerName, _: LookupOptions) -> LookupControlFlow<AuthLookup> {
        LookupControlFlow::Continue(Ok(AuthLookup::default()))
    }
}

//! Health: whether what a member serves works, seen from elsewhere.
//!
//! The roster ([`crate::member`]) tells who is alive: whose process answers pings. That is not the
//! same as serving. A member whose HTTP hangs is alive, and its clients wait. So members *check*
//! each other's services, as clients would use them:
//!
//! - **What is checked** a member says of itself, in its roster entry ([`Check`]): how its services
//!   are asked, what is a right answer, how often and how patiently. Everybody reads the same
//!   definition, and nobody has to be configured about others.
//! - **Who checks** follows from who is a member ([`vantages`]): three of them per target, from
//!   distinct regions where there are such, the same for all its checks. So a target is asked by
//!   three, however large the network, and not by all. A member is never its own vantage.
//! - **What a vantage finds** ([`Checker`]) becomes a verdict by counting: so many failures in a row
//!   and it is down, so many successes and some time, and it is up again. Verdicts stand in the
//!   vantage's own signed roster entry ([`Verdict`]).
//! - **What holds** ([`agree`]) everybody derives from the same verdicts: a majority of the vantages
//!   must say *down*. A vantage that sees every target down is more likely cut off itself, and its
//!   *down* does not count. What is not known, or contested, stays as it was; at first it is up.
//!
//! # Figures
//!
//! With the default [`Pace`] a service that hangs is found after at most
//! `1.1 period + fast + 2 timeout`, 8.9 s, by each vantage, and 6.5 s on average; one that
//! refuses within 4.9 s. `sim/tests/it/health.rs` prints what comes of it under loss and lies.
//!
//! # Trade-offs
//!
//! - A target with no service that works is still told when nobody else is left: the map lets checks
//!   exclude half of a site's replicas at most, because a fault that hits everybody at once is more
//!   often one of the checks.
//! - Vantages follow from each member's own view of who can be reached. While views differ, for a
//!   second or two, two members may count different vantages; verdicts are few and agree mostly, so
//!   the agreed state seldom differs, and what is contested stays as it was.

mod agree;
mod check;
mod checker;
mod vantage;
mod verdict;
mod watch;

pub use crate::name::CheckName;
pub use agree::{Agreed, Agreement, Judge, Judgement, Say, Voice, Witness, agree};
pub use check::{
    AUTHORITY_LEN_MAX, BODY_LEN_MAX, BadCheck, CHECKS_MAX, Check, HttpProbe, Method, PATH_LEN_MAX, Pace,
    Probe, STATUSES_MAX, StatusRange, TARGET_SITES_MAX, Tls,
};
pub use checker::{Checker, FLIGHTS_MAX, Input, Output, TARGETS_MAX, Target};
pub use vantage::{Candidate, VANTAGES, vantages};
pub use verdict::{Failure, Opinion, VERDICTS_MAX, Verdict};
pub use watch::{HISTORY_MAX, Phase, Sample, Seen};

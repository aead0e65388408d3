//! Follows the view: each new one is compiled beside the queries and swapped in.
//!
//! A poll of two pointers every 20 ms costs nothing and needs no word from whoever changes map or
//! zone. A drain is seen by the next query after that and the time to compile, which for 10,000 names
//! is some 20 ms. The general path of other transports answers from a new view at once.

use crate::capture::Engine;
use crate::fast::compiled::Compiled;
use crate::udp::Orders;
use arc_swap::ArcSwap;
use godwit_net::memory;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the view is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// When what was done so long before is surely over: the first answers, too.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// A network's map changes every few seconds, and needs what the change before needed.
const TIDY_PERIOD: Duration = Duration::from_secs(60);

/// The current view, compiled.
pub(crate) type Current = Arc<ArcSwap<Compiled>>;

/// Compiles what is current now.
pub(crate) fn first(engine: &Engine) -> Current {
    let view = engine.handler().shared().load_full();
    Arc::new(ArcSwap::from_pointee(Compiled::new(engine, view)))
}

/// Keeps `current` current until told to stop.
pub(crate) fn run(engine: &Engine, current: &Current, orders: &Orders) {
    let mut tidying = Tidying { due: Some(Instant::now() + TIDY_AFTER), next: Instant::now() };
    while orders.go_on() {
        let view = engine.handler().shared().load_full();
        if !Arc::ptr_eq(&view, &current.load().view) {
            current.store(Arc::new(Compiled::new(engine, view)));
            tidying.due.get_or_insert(Instant::now() + TIDY_AFTER);
        }
        tidying.look();
        std::thread::sleep(PERIOD);
    }
}

/// What was needed to start or to compile, memory and pages of the program, is given back a while later.
struct Tidying {
    due: Option<Instant>,
    /// Not before.
    next: Instant,
}

impl Tidying {
    fn look(&mut self) {
        let now = Instant::now();
        if self.due.is_none_or(|due| now < due.max(self.next)) {
            return;
        }
        (self.due, self.next) = (None, now + TIDY_PERIOD);
        memory::give_back();
        if let Err(error) = memory::let_go_of_files() {
            tracing::debug!(%error, "pages of the program stay mapped");
        }
    }
}

//! Follows the view: each new one is compiled beside the queries and swapped in.
//!
//! A poll of two pointers every 20 ms costs nothing and needs no word from whoever changes map or
//! zone. A drain is seen by the next query after that and the time to compile, which for 10,000 names
//! is some 20 ms. The general path of other transports answers from a new view at once.

use crate::capture::Engine;
use crate::fast::compiled::Compiled;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the view is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// The current view, compiled.
pub(crate) type Current = Arc<ArcSwap<Compiled>>;

/// Compiles what is current now.
pub(crate) fn first(engine: &Engine) -> Current {
    let view = engine.handler().shared().load_full();
    Arc::new(ArcSwap::from_pointee(Compiled::new(engine, view)))
}

/// Keeps `current` current until told to stop.
pub(crate) fn run(engine: &Engine, current: &Current, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let view = engine.handler().shared().load_full();
        if !Arc::ptr_eq(&view, &current.load().view) {
            current.store(Arc::new(Compiled::new(engine, view)));
        }
        std::thread::sleep(PERIOD);
    }
}

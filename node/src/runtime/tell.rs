//! Tells the machine what serving clients teaches: how busy this member is, how far its clients are
//! and what they ask for.

use crate::driver::Command;
use crate::http::{Asked, Door, Rtts};
use godwit_core::demand::Capacity;
use godwit_core::member::Input;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often load and client round-trip times are told to the machine.
const LOAD_PERIOD: Duration = Duration::from_secs(1);
const RTTS_PERIOD: Duration = Duration::from_secs(5);
/// Round-trip times that did not change are told again after this long: what was told holds for
/// five minutes.
const RTTS_REFRESH: Duration = Duration::from_secs(100);
const DEMAND_PERIOD: Duration = Duration::from_secs(5);

/// A member that was full says so until it is this far below, thousandths: the gap keeps clients
/// from being sent to and fro. It is kept here and not in the map, so that all maps know of it.
const FULL_UNTIL_PERMILLE: u16 = 850;

/// What serving clients teaches.
pub(super) struct Clients {
    pub(super) door: Arc<Door>,
    pub(super) rtts: Arc<Rtts>,
    pub(super) asked: Arc<Asked>,
    pub(super) capacity: Capacity,
}

/// Tells the machine how busy this member is, how far its clients are and what they ask for.
pub(super) async fn tell_clients(clients: Clients, commands: mpsc::Sender<Command>, stop: CancellationToken) {
    let Clients { door, rtts, asked, capacity } = clients;
    let mut load_at = tokio::time::interval(LOAD_PERIOD);
    let mut rtts_at = tokio::time::interval(RTTS_PERIOD);
    let mut demand_at = tokio::time::interval(DEMAND_PERIOD);
    let mut told = (0, Vec::new());
    let mut rtts_told = tokio::time::Instant::now();
    loop {
        let input = tokio::select! {
            () = stop.cancelled() => return,
            _ = load_at.tick() => {
                let load = load_to_tell(door.load_permille(), told.0);
                // Small changes are not worth a record to everybody.
                if load.abs_diff(told.0) < 50 { continue }
                told.0 = load;
                Input::Load(load)
            }
            _ = rtts_at.tick() => {
                let recent = rtts.told();
                if recent == told.1 && rtts_told.elapsed() < RTTS_REFRESH { continue }
                rtts_told = tokio::time::Instant::now();
                told.1.clone_from(&recent);
                Input::ClientRtts(recent)
            }
            _ = demand_at.tick() => Input::Demand(Box::new(asked.demand(capacity))),
        };
        if commands.send(Command::Input(input)).await.is_err() {
            return;
        }
    }
}

fn load_to_tell(load: u16, told: u16) -> u16 {
    if told >= 1000 && load >= FULL_UNTIL_PERMILLE { load.max(1000) } else { load }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_full_says_so_until_well_below() {
        assert_eq!(load_to_tell(999, 0), 999);
        assert_eq!(load_to_tell(1000, 999), 1000);
        assert_eq!(load_to_tell(850, 1000), 1000);
        assert_eq!(load_to_tell(849, 1000), 849);
        assert_eq!(load_to_tell(900, 849), 900);
    }
}

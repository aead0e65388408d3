//! Telling the nodes that will keep a site what of its next version has come here already.

use super::api::{Code, Error};
use super::server::Control;
use crate::clock;
use crate::driver::Command;
use crate::placement;
use godwit_core::key::MemberId;
use godwit_core::member::Input;
use godwit_core::upload::{ARRIVALS_MAX, Arrivals, Coming, INTENT_LEN_MAX, Intent};
use godwit_core::wire;
use std::collections::BTreeSet;
use tokio::sync::mpsc;

/// Who is told of the objects of one upload.
#[derive(Clone)]
pub(super) struct Telling {
    intent: Intent,
    to: BTreeSet<MemberId>,
    commands: mpsc::Sender<Command>,
}

impl Telling {
    /// By the publisher's intent, hexadecimal. Who is to keep the site is looked at once: whoever
    /// comes later fetches when the version is published.
    pub(super) fn begin(control: &Control, intent: &str) -> Result<Telling, Error> {
        let malformed = |problem: String| Error::new(Code::Malformed, format!("the intent: {problem}"));
        let bytes = hex::decode(intent).map_err(|e| malformed(e.to_string()))?;
        let intent: Intent = wire::decode(&bytes, INTENT_LEN_MAX).map_err(|e| malformed(e.to_string()))?;
        let held = intent.verify(clock::now(), control.network);
        held.map_err(|invalid| Error::new(Code::from(&invalid), invalid.to_string()))?;
        let mut to = placement::keepers(&control.snapshot(), &intent.site, intent.policy.replicas);
        to.remove(&control.own);
        Ok(Telling { intent, to, commands: control.commands.clone() })
    }

    /// These are durable here.
    pub(super) async fn tell(&self, objects: &[Coming]) {
        for objects in objects.chunks(ARRIVALS_MAX) {
            let arrivals = Arrivals { intent: self.intent.clone(), objects: objects.to_vec() };
            let input = Input::Arrived { to: self.to.clone(), arrivals: Box::new(arrivals) };
            // The machine has ended only when the daemon stops.
            let _ = self.commands.send(Command::Input(input)).await;
        }
    }
}

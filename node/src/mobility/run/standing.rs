//! How this node stands to a name, and how it asks another one before it moves the name there.
//!
//! What a node serves, and whether it works, no member tells in general; so the one that is to take a name is
//! asked at the time. Its word is about itself alone: one that lies gets nothing but flows that home agents
//! will not send it.

use super::Running;
use crate::clock;
use crate::mobility::Prepared;
use crate::mobility::services::State;
use crate::mobility::standing::Stands;
use godwit_core::key::MemberId;
use godwit_core::mobility::{Message, Standing};
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use std::time::Duration;
use tokio::sync::oneshot;

/// A member in reach answers within this; it is asked again each second.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// So many moves wait for an answer at once: each is an operator at a terminal.
const ASKING_MAX: usize = 16;

/// A move that waits for the answer of the node that is to take the name.
pub(super) struct Asking {
    name: SiteName,
    to: MemberId,
    until: Time,
    reply: oneshot::Sender<Result<Prepared, String>>,
}

impl Running {
    /// How this node stands to a name.
    pub(super) fn stands(&self, name: &SiteName) -> Stands {
        let told = self.services.told(clock::now());
        let (Some(served), Some(tunnel)) = (told.iter().find(|one| one.name == *name), &self.tunnel) else {
            return Stands::Unserved;
        };
        match (&served.problem, served.works) {
            _ if !served.granted => return Stands::Ungranted,
            _ if served.homes.is_empty() => return Stands::Forbidden,
            (Some(problem), _) => return Stands::Deaf(problem.clone()),
            (None, None) => return Stands::Unlooked,
            (None, Some(false)) => return Stands::Failed,
            (None, Some(true)) => {}
        }
        if served.state != State::Open || self.left {
            return Stands::Drained;
        }
        if !served.homes.is_subset(&tunnel.bindings.homes().open) {
            return Stands::Deaf("the host did not take the address".to_owned());
        }
        let bound = tunnel.bindings.bound_at(&served.homes);
        let named = |agent: &MemberId| self.services.name_of(agent);
        if !bound.is_empty() {
            return Stands::Bound(bound.iter().map(|agent| (*agent, named(agent))).collect());
        }
        let agents = self.services.home_agents();
        match tunnel.bindings.refused_by(&served.homes) {
            _ if agents.is_empty() => Stands::Alone,
            Some(agent) => Stands::Refused(named(&agent)),
            None => Stands::Unbound(agents.iter().map(named).collect()),
        }
    }

    /// A name is to be moved to another node: it is asked how it stands to it.
    pub(super) fn prepare(
        &mut self,
        name: SiteName,
        to: &str,
        reply: oneshot::Sender<Result<Prepared, String>>,
    ) {
        let asked = self.taker(&name, to).and_then(|to| {
            if self.asking.len() >= ASKING_MAX {
                return Err("too many names are being moved: try again in a moment".to_owned());
            }
            self.ask(to, &name).map(|()| to)
        });
        match asked {
            Ok(to) => self.asking.push(Asking { name, to, until: clock::now() + ANSWER_MAX, reply }),
            // Whoever asked may have gone.
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    fn ask(&self, to: MemberId, name: &SiteName) -> Result<(), String> {
        let asked = self.tell.tell(to, &Message::StandingWanted(name.clone()));
        asked.map_err(|error| format!("{} cannot be asked: {error}", self.services.name_of(&to)))
    }

    /// Messages may be lost with their connection.
    pub(super) fn ask_again(&self) {
        for asking in &self.asking {
            // It ends by itself when there is no answer.
            let _ = self.ask(asking.to, &asking.name);
        }
    }

    /// A member asks how this node stands to a name.
    pub(super) fn standing_wanted(&self, from: MemberId, name: SiteName) {
        let standing = self.stands(&name).told();
        // Asked again when it is lost.
        let _ = self.tell.tell(from, &Message::Standing(name, standing));
    }

    /// A member says how it stands to a name: what waited for that goes on, or ends.
    pub(super) fn standing_told(&mut self, from: MemberId, name: &SiteName, standing: &Standing) {
        let (answered, waiting) = std::mem::take(&mut self.asking)
            .into_iter()
            .partition(|asking: &Asking| asking.to == from && asking.name == *name);
        self.asking = waiting;
        for asking in answered {
            let prepared = self.judge(from, name, standing).and_then(|()| self.prepared(name, from));
            let _ = asking.reply.send(prepared);
        }
    }

    /// Whether a name can be moved to a node that stands to it like this: whoever sends packets here has to
    /// send them there.
    fn judge(&self, to: MemberId, name: &SiteName, standing: &Standing) -> Result<(), String> {
        let bound: &[MemberId] = if let Standing::Bound(agents) = standing { agents } else { &[] };
        let here = self.tunnel.iter().flat_map(|tunnel| tunnel.bindings.carried_at());
        let missing = here.filter(|agent| !bound.contains(agent)).map(|agent| self.services.name_of(&agent));
        let missing: Vec<String> = missing.collect();
        let called = self.services.name_of(&to);
        match standing {
            Standing::Unserved => Err(format!("{called} does not serve {name}: godwit serve {name} there")),
            Standing::Failed => {
                Err(format!("what serves {name} at {called} does not work: godwit status there"))
            }
            Standing::Drained => {
                Err(format!("{called} takes no new flows for {name}: godwit serve {name} there"))
            }
            Standing::Unbound => Err(format!("{called} is not bound to {name} yet: godwit status there")),
            Standing::Bound(agents) if missing.is_empty() && !agents.is_empty() => Ok(()),
            Standing::Bound(_) => {
                Err(format!("{called} is not bound to {name} at {}: try again", missing.join(", ")))
            }
        }
    }

    /// Moves whose taker does not answer end.
    pub(super) fn end_asking(&mut self, now: Time) {
        let (over, waiting) =
            std::mem::take(&mut self.asking).into_iter().partition(|asking: &Asking| asking.until <= now);
        self.asking = waiting;
        for asking in over {
            let called = self.services.name_of(&asking.to);
            let problem = format!("{called} does not say whether it could take {}", asking.name);
            let _ = asking.reply.send(Err(problem));
        }
    }

    /// When [`Running::end_asking`] is to be called.
    pub(super) fn asking_until(&self) -> Option<Time> {
        self.asking.iter().map(|asking| asking.until).min()
    }
}

//! Values for certificate authorities: set and cleared here, answered by every redirector.

use super::api::{self, Code, Error};
use super::server::Control;
use crate::driver::Command;
use godwit_core::certificate::Role;
use godwit_core::challenge::{Challenge, LEASE_DEFAULT, LEASE_MAX, VALUES_MAX};
use godwit_core::member::Input;
use std::time::Duration;

impl Control {
    /// For `GET /v1/acme`.
    pub(super) fn challenges(&self) -> api::Challenges {
        let snapshot = self.snapshot();
        let values = snapshot.challenges.iter().flat_map(|(by, values)| {
            let member = snapshot.members.get(by);
            let member = member.map(|known| known.certificate.grant().name.to_string()).unwrap_or_default();
            values.iter().map(move |value| api::ChallengeAt {
                name: value.name.clone(),
                value: value.value.clone(),
                member: member.clone(),
            })
        });
        api::Challenges { challenges: values.collect() }
    }

    /// For `POST /v1/acme`.
    pub(super) async fn challenge(&self, asked: api::Challenge) -> Result<api::Accepted, Error> {
        let malformed = |problem: String| Error::new(Code::Malformed, problem);
        let challenge = Challenge::new(&asked.name, &asked.value).map_err(malformed)?;
        let zone = format!(".{}", self.zone);
        if !challenge.name.ends_with(&zone) {
            return Err(malformed(format!(
                "{} is not in the zone {}: let a CNAME at the name lead to one that is",
                challenge.name, self.zone
            )));
        }
        let lease = match asked.lease_secs {
            None => LEASE_DEFAULT,
            Some(seconds) => Duration::from_secs(seconds),
        };
        if lease > LEASE_MAX {
            return Err(malformed(format!("a value stands for at most {} seconds", LEASE_MAX.as_secs())));
        }
        let snapshot = self.snapshot();
        let own = snapshot.members.get(&self.own);
        if !own.is_some_and(|own| {
            own.certificate.has_role(Role::Node) || own.certificate.has_role(Role::Redirector)
        }) {
            let problem = "this member is neither node nor redirector: others would not believe it";
            return Err(Error::new(Code::NotAllowed, problem));
        }
        let held = snapshot.challenges.get(&self.own).map_or(&[][..], Vec::as_slice);
        if !lease.is_zero() && held.len() >= VALUES_MAX && !held.contains(&challenge) {
            let problem = format!("{VALUES_MAX} values are set here already: clear some");
            return Err(Error::new(Code::TooLarge, problem));
        }
        let command = Command::Input(Input::Challenge { challenge, lease });
        let sent = self.commands.send(command).await;
        sent.map_err(|error| Error::new(Code::Unavailable, error.to_string()))?;
        Ok(api::Accepted { accepted: true })
    }
}

//! Redeeming a join token: a connection for one question, without an overlay.

use crate::config::{Limits, Paths};
use crate::exchange::{self, Denied};
use crate::pending::Pending;
use crate::quic::Sockets;
use crate::transports::{self, Attempt, Secured, Transports};
use crate::{identity, start};
use futures::stream::{FuturesUnordered, StreamExt};
use godwit_core::admission::Refusal;
use godwit_core::certificate::{Invalid, MemberCertificate, Redemption};
use godwit_core::key::SecretKey;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The next bootstrap member is asked so long after the last one, if no answer came. A far member
/// takes four round trips, over a second, in which several near ones can be asked; should two of
/// them countersign, the earlier one counts and both mean the same key.
const NEXT_MEMBER: Duration = Duration::from_millis(150);

/// The close of the connections has so long to leave.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// A token was not redeemed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// A member answered no. The token is not used up by that; the refusal says whether trying
    /// again can help.
    #[error("a member of the network refused: {0}")]
    Refused(#[from] Refusal),
    /// No member answered in time. Trying again may help; a sponsor may already have recorded the
    /// redemption, and answers the same key again.
    #[error("no member of the network answered: {0}")]
    Unreachable(String),
}

/// Asks the members at `bootstrap`, each a little after the last, to sponsor `redemption`, which ties a
/// token to `key`. Takes at most `at_most`.
pub async fn join(
    key: &SecretKey,
    redemption: Redemption,
    bootstrap: &[SocketAddr],
    at_most: Duration,
) -> Result<MemberCertificate, JoinError> {
    start::install_crypto();
    let limits = Limits::default();
    let sockets = Sockets::default();
    let pending = Pending::new(limits.pending_per_source, limits.pending);
    let keypair = identity::keypair(key).map_err(|e| JoinError::Unreachable(e.to_string()))?;
    let mut transports = Transports::new(key, &keypair, Paths::Both, &limits, sockets.clone(), pending)
        .map_err(JoinError::Unreachable)?;
    let redemption = Arc::new(redemption);
    let outcome = timeout(at_most, async {
        loop {
            let mut asked: FuturesUnordered<_> = bootstrap
                .iter()
                .enumerate()
                .map(|(i, address)| {
                    let ask = ask(&mut transports, *address, &limits, redemption.clone());
                    async move {
                        sleep(NEXT_MEMBER * i as u32).await;
                        ask.await
                    }
                })
                .collect();
            let mut answers = Answers::default();
            while let Some(result) = asked.next().await {
                match result {
                    Ok(certificate) => return Ok(certificate),
                    Err(attempts) => answers.add(attempts)?,
                }
            }
            // A sponsor that took too long, because many join at once or its disk is slow, is likely
            // to have recorded this redemption by now, and answers at once.
            if !answers.slow {
                return Err(answers.into_error());
            }
        }
    })
    .await;
    drop(transports);
    sockets.wait_idle(CLOSE_MAX).await;
    outcome.unwrap_or_else(|_| Err(JoinError::Unreachable(format!("nothing within {at_most:?}"))))
}

fn ask(
    transports: &mut Transports,
    address: SocketAddr,
    limits: &Limits,
    redemption: Arc<Redemption>,
) -> impl Future<Output = Result<MemberCertificate, Vec<Attempt>>> + use<> {
    let at_most = limits.admission;
    transports.dial(&[address], None, limits, move |secured: Secured, _, _| {
        let redemption = redemption.clone();
        async move {
            let asked = timeout(at_most, exchange::ask_to_join(&redemption, secured)).await;
            let certificate = asked.unwrap_or(Err(Denied::Timeout))?;
            check(&redemption, &certificate)
                .map_err(|_| Denied::Protocol("it answered with another certificate"))?;
            Ok(certificate)
        }
    })
}

/// What a sponsor answers must be this redemption, countersigned.
fn check(redemption: &Redemption, certificate: &MemberCertificate) -> Result<(), Invalid> {
    certificate.verify(redemption.grant.network)?;
    let same =
        certificate.member() == redemption.member && certificate.grant().serial == redemption.grant.serial;
    same.then_some(()).ok_or(Invalid::Key)
}

/// What was heard so far.
#[derive(Default)]
struct Answers {
    refusal: Option<Refusal>,
    failures: Vec<String>,
    /// Whether somebody was reached and took too long.
    slow: bool,
}

impl Answers {
    /// A refusal that any member would repeat ends the join; others wait for a better answer.
    fn add(&mut self, attempts: Vec<Attempt>) -> Result<(), JoinError> {
        for attempt in &attempts {
            self.slow |= matches!(attempt.denied, Denied::Timeout);
            if let Denied::There(refusal) = attempt.denied {
                match refusal {
                    Refusal::Unavailable | Refusal::Stale | Refusal::Sponsor | Refusal::Malformed => {
                        self.refusal = Some(refusal);
                    }
                    Refusal::Invalid
                    | Refusal::Network
                    | Refusal::Expired
                    | Refusal::Revoked
                    | Refusal::Used => return Err(refusal.into()),
                }
            }
        }
        self.failures.push(transports::list(&attempts));
        Ok(())
    }

    fn into_error(self) -> JoinError {
        match self.refusal {
            Some(refusal) => refusal.into(),
            None if self.failures.is_empty() => JoinError::Unreachable("no address is known".into()),
            None => JoinError::Unreachable(self.failures.join("; ")),
        }
    }
}

//! The control endpoint of a process that serves a zone from a file, without a network of members:
//! the requests of a member's that mean something there, in the same words, and `POST /v1/state`.

use super::api::{self, Code, Error};
use super::host::{Host, Pending};
use super::server::{Answers, body, metrics, ok, query, question, serve_on, text, unknown};
use crate::http::Body;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests under way get when the endpoint stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// What the endpoint asks of the process that serves the zone.
pub trait ZoneHost: Host {
    /// The zone, its addresses and what the checks find.
    fn status(&self) -> Pending<api::Status>;

    /// Leads clients away from a region or an address, or back. Durable and in force when it is answered.
    fn set_state(&self, asked: api::State) -> Pending<()>;

    /// The values for certificate authorities.
    fn challenges(&self) -> Pending<api::Challenges>;

    /// Sets or clears one. Durable and in force when it is answered.
    fn challenge(&self, asked: api::Challenge) -> Pending<()>;

    /// The metrics, as OpenMetrics text.
    fn metrics(&self) -> Result<String, Error>;
}

/// The endpoint of a zone, listening. What is at its path goes with it, unless another process has put
/// its own there.
pub struct ZoneEndpoint {
    listener: Option<UnixListener>,
    path: PathBuf,
    inode: u64,
}

impl ZoneEndpoint {
    /// Listens at `path`, in place of whoever did; only this user may connect. Within a Tokio runtime.
    pub fn listen(path: &Path) -> io::Result<ZoneEndpoint> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        // Of a process that had the same number once.
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&beside)?.ino();
        std::fs::rename(&beside, path)?;
        Ok(ZoneEndpoint { listener: Some(listener), path: path.to_owned(), inode })
    }

    /// Answers until `stop`.
    pub async fn serve(mut self, host: Arc<dyn ZoneHost>, stop: CancellationToken) {
        let Some(listener) = self.listener.take() else { return };
        let tasks = TaskTracker::new();
        serve_on(listener, Zone(host), stop, tasks.clone()).await;
        tasks.close();
        // Whoever takes longer is cut off.
        let _ = tokio::time::timeout(STOP_MAX, tasks.wait()).await;
    }
}

impl Drop for ZoneEndpoint {
    fn drop(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[derive(Clone)]
struct Zone(Arc<dyn ZoneHost>);

impl Answers for Zone {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let accepted = |()| ok(&api::Accepted { accepted: true });
        let path = request.uri().path().to_owned();
        let query = query(request.uri().query().unwrap_or_default());
        match (request.method(), path.as_str()) {
            (&Method::GET, "/livez") => Ok(text(StatusCode::OK, "live\n")),
            // A zone is compiled before it is listened for: whoever answers is ready.
            (&Method::GET, "/readyz") => Ok(text(StatusCode::OK, "ready\n")),
            (&Method::GET, "/metrics") => Ok(metrics(self.0.metrics()?)),
            (&Method::GET, "/v1/status") => Ok(ok(&self.0.status().await?)),
            (&Method::GET, "/v1/explain") => Ok(ok(&self.0.explain(&question(&query)?)?)),
            (&Method::POST, "/v1/reload") => {
                self.0.reload().await.map(|kept| ok(&api::Reloaded { accepted: true, kept }))
            }
            (&Method::POST, "/v1/state") => self.0.set_state(body(request).await?).await.map(accepted),
            (&Method::GET, "/v1/acme") => Ok(ok(&self.0.challenges().await?)),
            (&Method::POST, "/v1/acme") => self.0.challenge(body(request).await?).await.map(accepted),
            (
                method,
                "/livez" | "/readyz" | "/metrics" | "/v1/status" | "/v1/explain" | "/v1/reload" | "/v1/state"
                | "/v1/acme",
            ) => Err(Error::new(Code::Malformed, format!("{method} is not a method of {path}"))),
            _ => Err(unknown(&path)),
        }
    }
}

//! A typed client of the control endpoint, for the command line and for tests.

use super::api::{self, OBJECTS_MAX};
use super::host::Question;
use crate::datadir::ADMIN_SOCKET;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use godwit_core::certificate::Invalid;
use godwit_core::content::{ObjectId, SiteVersion, VersionNumber};
use godwit_core::name::SiteName;
use godwit_core::record::Record;
use godwit_core::upload::Intent;
use godwit_core::wire;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// The longest answer taken, bytes: the status of a thousand members is some 2 MB.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// Talks to the daemon behind one control socket. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why a request had no answer, or an unwelcome one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there. Starting the daemon helps.
    #[error("no godwit {}", missing(.socket))]
    NotRunning {
        /// The socket tried.
        socket: PathBuf,
    },
    /// The user may not open the socket.
    #[error("{} belongs to another user: become that user or root", .socket.display())]
    Denied {
        /// The socket tried.
        socket: PathBuf,
    },
    /// The daemon said no.
    #[error(transparent)]
    Refused(#[from] api::Error),
    /// The connection failed midway; whether the request took effect is not known.
    #[error("talking to the daemon")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer does not have its form: client and daemon are of different versions.
    #[error("the daemon's answer was not understood ({0}): are both of the same version?")]
    Answer(String),
}

/// Where it was looked for, as whoever asked named it, and what would be there: a member's control
/// socket has its own name, a static zone's that of its file.
fn missing(socket: &Path) -> String {
    match socket.parent().filter(|_| socket.file_name().is_some_and(|name| name == ADMIN_SOCKET)) {
        Some(directory) => format!("runs in {}: start it with `godwit run`", directory.display()),
        None => format!(
            "listens on {}: start it with `godwit run`, or `godwit redirector` for a static zone",
            socket.display()
        ),
    }
}

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

impl Client {
    /// A client of the daemon behind this socket ([`crate::datadir::DataDir::admin_socket`]).
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into() }
    }

    /// What the member knows of its network.
    pub async fn status(&self) -> Result<api::Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Where a client is led for a site, and why: the map's own account.
    pub async fn why(&self, site: &SiteName, client: IpAddr) -> Result<serde_json::Value, ClientError> {
        self.get(&format!("/v1/why?site={site}&client={client}")).await
    }

    /// What DNS would answer for a name, and why: the redirector's own account. `kind` is a type as
    /// text; without it, the addresses.
    pub async fn explain(&self, question: &Question) -> Result<serde_json::Value, ClientError> {
        let Question { name, kind, client, resolver } = question;
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let mut path = format!("/v1/explain?name={}&client={client}", encode(name));
        if let Some(kind) = kind {
            path += &format!("&type={}", encode(kind));
        }
        if let Some(resolver) = resolver {
            path += &format!("&resolver={resolver}");
        }
        self.get(&path).await
    }

    /// What the home agent beside the member holds.
    pub async fn home(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/home").await
    }

    /// The flows that passed there lately, at most so many.
    pub async fn home_flows(&self, max: usize) -> Result<serde_json::Value, ClientError> {
        self.get(&format!("/v1/home/flows?max={max}")).await
    }

    /// Has the daemon read its configuration again; an error says what is wrong with it. Gives what
    /// could not be read and stays as it was.
    pub async fn reload(&self) -> Result<Vec<String>, ClientError> {
        let answer: api::Reloaded = self.request(Method::POST, "/v1/reload", empty()).await?;
        Ok(answer.kept)
    }

    /// The values for certificate authorities that stand, whoever set them.
    pub async fn challenges(&self) -> Result<Vec<api::ChallengeAt>, ClientError> {
        let answer: api::Challenges = self.get("/v1/acme").await?;
        Ok(answer.challenges)
    }

    /// Sets or clears a value for a certificate authority.
    pub async fn challenge(&self, challenge: &api::Challenge) -> Result<(), ClientError> {
        let _: api::Accepted = self.post("/v1/acme", challenge).await?;
        Ok(())
    }

    /// Leads clients away from a region or an address of a static zone, or back. Durable and in force
    /// when this returns.
    pub async fn set_state(&self, state: &api::State) -> Result<(), ClientError> {
        let _: api::Accepted = self.post("/v1/state", state).await?;
        Ok(())
    }

    /// The current version of a site, if it has one.
    pub async fn site(&self, site: &SiteName) -> Result<Option<SiteVersion>, ClientError> {
        Ok(self.versions(site).await?.into_iter().next())
    }

    /// The versions of a site that are kept: the current one, then those before it, newest first.
    /// None when the site was never published.
    pub async fn versions(&self, site: &SiteName) -> Result<Vec<SiteVersion>, ClientError> {
        let answer: api::Site = match self.get(&format!("/v1/sites/{site}")).await {
            Err(ClientError::Refused(error)) if error.code == api::Code::NotFound => return Ok(Vec::new()),
            answer => answer?,
        };
        let unclear = |problem: String| ClientError::Answer(format!("site version: {problem}"));
        let read = |record: &String| {
            let bytes = hex::decode(record).map_err(|e| unclear(e.to_string()))?;
            wire::decode(&bytes, wire::RECORD_LEN_MAX).map_err(|e| unclear(e.to_string()))
        };
        std::iter::once(&answer.record).chain(&answer.history).map(read).collect()
    }

    /// Who holds a version of a site.
    pub async fn progress(
        &self,
        site: &SiteName,
        version: VersionNumber,
    ) -> Result<api::Progress, ClientError> {
        self.get(&format!("/v1/sites/{site}/progress?version={version}")).await
    }

    /// Who holds this very version of a site; also tells whether it won its number.
    pub async fn progress_of(&self, version: &SiteVersion) -> Result<api::Progress, ClientError> {
        let (site, number, hash) = (&version.site, version.number, version.hash());
        self.get(&format!("/v1/sites/{site}/progress?version={number}&hash={hash}")).await
    }

    /// Those of `objects` that the member does not hold.
    pub async fn missing(&self, objects: &[ObjectId]) -> Result<Vec<ObjectId>, ClientError> {
        let mut missing = Vec::new();
        for portion in objects.chunks(OBJECTS_MAX) {
            let asked = api::Objects { objects: portion.iter().map(ObjectId::to_string).collect() };
            let answer: api::Objects = self.post("/v1/objects/missing", &asked).await?;
            for name in answer.objects {
                missing.push(name.parse().map_err(ClientError::Answer)?);
            }
        }
        Ok(missing)
    }

    /// Gives objects to the member, one item of the stream each. They are durable when this returns.
    /// An error in the stream ends the upload; objects before it may have been stored. With an intent,
    /// the nodes that will keep the site begin to fetch what has come.
    pub async fn put_objects<S>(
        &self,
        intent: Option<&Intent>,
        objects: S,
    ) -> Result<api::Stored, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let frames = objects.flat_map(|object| {
            let parts = match object.and_then(framed) {
                Ok([head, bytes]) => vec![Ok(Frame::data(head)), Ok(Frame::data(bytes))],
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(parts)
        });
        let body = StreamBody::new(frames).boxed_unsync();
        let path = match intent {
            Some(intent) => format!("/v1/objects?intent={}", hex::encode(wire::encode(intent))),
            None => "/v1/objects".to_owned(),
        };
        self.request(Method::PUT, &path, body).await
    }

    /// Gives a signed head to the member. It is durable there when this returns.
    pub async fn submit(&self, record: &Record) -> Result<(), ClientError> {
        let submission = api::Submission { record: hex::encode(wire::encode(record)) };
        let _: api::Accepted = self.post("/v1/records", &submission).await?;
        Ok(())
    }

    /// Has the member delete what nobody needs any more; returns when that is done.
    pub async fn collect(&self) -> Result<api::Collected, ClientError> {
        self.request(Method::POST, "/v1/collect", empty()).await
    }

    /// Serves a name at its home address from now on, or no longer.
    pub async fn serve(&self, serve: &api::Serve) -> Result<api::Served, ClientError> {
        self.post("/v1/serve", serve).await
    }

    /// Moves what is served at a home address to another node; returns when that is done.
    pub async fn move_to(&self, wanted: &api::Move) -> Result<api::Moved, ClientError> {
        self.post("/v1/move", wanted).await
    }

    /// Whether the member can serve.
    pub async fn ready(&self) -> Result<bool, ClientError> {
        let (status, _) = self.exchange(Method::GET, "/readyz", empty()).await?;
        Ok(status.is_success())
    }

    /// The metrics, as OpenMetrics text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (_, bytes) = self.exchange(Method::GET, "/metrics", empty()).await?;
        String::from_utf8(bytes.into()).map_err(|_| ClientError::Answer("metrics are not text".into()))
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.request(Method::GET, path, empty()).await
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, ask: &Q) -> Result<A, ClientError> {
        let json = serde_json::to_vec(ask).map_err(|e| ClientError::Transport(e.into()))?;
        let body = Full::new(Bytes::from(json)).map_err(|never| match never {}).boxed_unsync();
        self.request(Method::POST, path, body).await
    }

    async fn request<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<A, ClientError> {
        let (status, bytes) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer(e.to_string()));
        }
        match serde_json::from_slice::<api::Error>(&bytes) {
            Ok(error) => Err(error.into()),
            Err(_) => Err(ClientError::Answer(format!("status {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let transport = |error: hyper::Error| ClientError::Transport(error.into());
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unconnected(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(transport)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "admin")
            .body(body)
            .map_err(|e| ClientError::Transport(e.into()))?;
        let answer = sender.send_request(request).await.map_err(transport)?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect().await;
        connection.abort();
        Ok((status, bytes.map_err(ClientError::Transport)?.to_bytes()))
    }

    fn unconnected(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { socket },
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            _ => ClientError::Transport(error.into()),
        }
    }
}

fn empty() -> RequestBody {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn framed(object: Bytes) -> io::Result<[Bytes; 2]> {
    let len = u32::try_from(object.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an object is longer than 4 GiB"))?;
    let mut head = BytesMut::with_capacity(4);
    head.put_u32_le(len);
    Ok([head.freeze(), object])
}

impl From<&Invalid> for api::Code {
    fn from(invalid: &Invalid) -> api::Code {
        match invalid {
            Invalid::Signature | Invalid::Network(_) | Invalid::Key | Invalid::Sponsor => api::Code::Invalid,
            Invalid::NotYet(_) | Invalid::Expired(_) => api::Code::Expired,
            Invalid::Revoked => api::Code::Revoked,
            Invalid::Used(_) | Invalid::Scope(_) => api::Code::NotAllowed,
            Invalid::Malformed(_) => api::Code::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_called_as_it_was_named() {
        let told = |socket: &str| ClientError::NotRunning { socket: socket.into() }.to_string();
        assert!(told("/var/lib/godwit/admin.sock").starts_with("no godwit runs in /var/lib/godwit:"));
        assert!(told("/tmp/fra1.sock").starts_with("no godwit listens on /tmp/fra1.sock:"));
    }
}

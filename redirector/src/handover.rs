//! One process follows another without a query lost: sockets are passed, not bound anew.
//!
//! Descriptors of the very sockets that the old process reads go to the new one over a Unix socket.
//! Both read them until the old one stops, so every query is in a queue that somebody reads. (A second
//! set of sockets on the same port, by `SO_REUSEPORT`, would lose what is queued in those that close.)
//!
//! ```text
//!    successor                                   predecessor (answers all the time)
//!        │ connect ───────────────────────────────▶ │
//!        │ ◀── 'D' 'T' 'H' 'Q' 'W' 'M' 'C' each with a descriptor, '.'
//!        │ 'P' prepare ───────────────────────────▶ │ lets go of what only one may hold
//!        │ ◀───────────────────────────────── 'P' │
//!        │ starts to answer; both do                │
//!        │ 'R' ready ─────────────────────────────▶ │ stops reading, says good-bye on QUIC
//!        │ ◀ 'F' each with a descriptor, 'S' octets │ what only one process can use at a time: its estate
//!        │ ◀───────────────────────────────── 'B' │
//!        │ answers QUIC too                         │ serves its connections to their end, and ends
//! ```
//!
//! The *estate* is what another one goes on with from one moment to the next (tunnels with their keys). Most
//! members have none; whoever made it reads it, and here it is only passed on.
//!
//! What else the process listens on (sites, metrics, control) is passed in the same way. Who connects
//! between 'P' and the successor's start waits in the kernel's queue.
//!
//! Whatever goes wrong before 'R' (the successor ends, or is silent for [`PATIENCE`]) leaves the
//! predecessor as it was. QUIC comes last because its packets belong to connections: read by the
//! wrong process they would be lost, waiting in the queue they are not.
//!
//! Only a process of the same user, or root's, gets the sockets.

use crate::listeners::Descriptors;
use crate::sockets::{Open, Purpose};
use godwit_net::estate::Estate;
use godwit_net::handed;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;
use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};

/// How long either side waits for the other: a member's whole start, with room.
const PATIENCE: Duration = Duration::from_secs(60);
/// More sockets than this no redirector has; one that passes more is none.
const SOCKETS_MAX: usize = 4096;
const END: u8 = b'.';
const PREPARE: u8 = b'P';
const READY: u8 = b'R';
const GOODBYE: u8 = b'B';
const DESCRIPTOR: u8 = b'F';
const STATE: u8 = b'S';

const ALL: [Purpose; 7] = [
    Purpose::Dns,
    Purpose::Dot,
    Purpose::Doh,
    Purpose::Doq,
    Purpose::Http,
    Purpose::Metrics,
    Purpose::Control,
];

impl Purpose {
    fn letter(self) -> u8 {
        match self {
            Purpose::Dns => b'D',
            Purpose::Dot => b'T',
            Purpose::Doh => b'H',
            Purpose::Doq => b'Q',
            Purpose::Http => b'W',
            Purpose::Metrics => b'M',
            Purpose::Control => b'C',
        }
    }

    fn of_letter(letter: u8) -> Option<Purpose> {
        ALL.into_iter().find(|it| it.letter() == letter)
    }

    /// By the name that a unit gives a descriptor.
    fn named(name: &str) -> Option<Purpose> {
        match name {
            "dns" => Some(Purpose::Dns),
            "dot" => Some(Purpose::Dot),
            "doh" => Some(Purpose::Doh),
            "doq" => Some(Purpose::Doq),
            "http" => Some(Purpose::Http),
            "metrics" => Some(Purpose::Metrics),
            "control" => Some(Purpose::Control),
            _ => None,
        }
    }
}

/// Sockets that were open before this redirector started, and who holds them besides.
#[derive(Default)]
pub struct Inherited {
    pub(crate) open: Open,
    /// Whether a service manager has them, who listens on whatever happens here.
    pub(crate) held: bool,
    /// For whoever follows, besides the redirector's own.
    pub(crate) beside: Open,
    pub(crate) predecessor: Option<Predecessor>,
    /// Whether this process leaves an estate.
    pub(crate) leaves: bool,
}

impl Inherited {
    /// None: everything is bound anew.
    pub fn none() -> Inherited {
        Inherited::default()
    }

    /// Looks for sockets: of a service manager (sd_listen_fds(3), names `dns`, `dot`, `doh`, `doq`,
    /// `http`, `metrics`, `control`),
    /// or of a process that answers at `handover` and goes on to answer meanwhile.
    pub async fn find(handover: Option<&Path>) -> io::Result<Inherited> {
        let open = of_service_manager();
        let predecessor = match handover.map(Path::to_owned) {
            Some(path) => spawn_blocking(move || Predecessor::ask(&path)).await??,
            None => None,
        };
        let held = !open.is_empty();
        Ok(match predecessor {
            Some((open, predecessor)) => {
                Inherited { open, held, predecessor: Some(predecessor), ..Inherited::default() }
            }
            None => Inherited { open, held, ..Inherited::default() },
        })
    }

    /// Takes the sockets for `purpose` out.
    pub fn take(&mut self, purpose: Purpose) -> Vec<OwnedFd> {
        let (taken, open) = std::mem::take(&mut self.open).into_iter().partition(|(is, _)| *is == purpose);
        self.open = open;
        let taken: Open = taken;
        taken.into_iter().map(|(_, socket)| socket.into()).collect()
    }

    /// These sockets go to the next process as well.
    pub fn pass_on(&mut self, purpose: Purpose, sockets: impl IntoIterator<Item = OwnedFd>) {
        self.beside.extend(sockets.into_iter().map(|socket| (purpose, Socket::from(socket))));
    }

    /// This process leaves an estate: [`Succession::Heir`] is to be answered.
    pub fn leave_estate(&mut self) {
        self.leaves = true;
    }

    /// What the process before this one leaves when it is relieved; `None` where there is none. An error: it
    /// had nothing to leave, or did not come so far.
    pub fn estate(&mut self) -> Option<oneshot::Receiver<Estate>> {
        let predecessor = self.predecessor.as_mut()?;
        let (leave, left) = oneshot::channel();
        predecessor.heir = Some(leave);
        Some(left)
    }

    /// Asks the process before this one, if there is any, to let go of what only one can hold, and
    /// waits until it has. From then on it relies on this one to go on.
    pub async fn prepare(&mut self) -> io::Result<()> {
        let Some(predecessor) = self.predecessor.take() else { return Ok(()) };
        self.predecessor = Some(spawn_blocking(move || predecessor.exchange(PREPARE, PREPARE)).await??);
        Ok(())
    }
}

fn of_service_manager() -> Open {
    let mut open = Open::new();
    for handed in handed::take() {
        match Purpose::named(&handed.name) {
            Some(purpose) => open.push((purpose, Socket::from(handed.descriptor))),
            None => {
                tracing::warn!(name = handed.name, "a descriptor was passed under a name that means nothing")
            }
        }
    }
    open
}

/// The process that answers until this one does.
pub(crate) struct Predecessor {
    stream: UnixStream,
    heir: Option<oneshot::Sender<Estate>>,
}

impl Predecessor {
    /// Its sockets; none when nobody is there.
    fn ask(path: &Path) -> io::Result<Option<(Open, Predecessor)>> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            // Nobody, or what somebody left behind who ended without a word.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut open = Open::new();
        while let Some(socket) = receive(&stream)? {
            open.push(socket);
            if open.len() > SOCKETS_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        Ok(Some((open, Predecessor { stream, heir: None })))
    }

    fn exchange(mut self, word: u8, answer: u8) -> io::Result<Predecessor> {
        self.stream.write_all(&[word])?;
        match octet(&mut self.stream)? {
            found if found == answer => Ok(self),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// Tells it that this one answers now, and waits until it has stopped; what it leaves is passed on.
    async fn relieve(mut self) -> io::Result<()> {
        spawn_blocking(move || {
            self.stream.write_all(&[READY])?;
            if let Some(estate) = receive_estate(&mut self.stream)?
                && let Some(heir) = self.heir.take()
            {
                // Who has no use for it closes it.
                let _ = heir.send(estate);
            }
            Ok(())
        })
        .await?
    }

    /// The same; the log has how it went.
    pub(crate) async fn relieve_and_tell(self) {
        match self.relieve().await {
            Ok(()) => tracing::info!("took over from another process"),
            // It reads on, or has ended; this one reads in either case.
            Err(error) => tracing::warn!(%error, "the other process did not say good-bye"),
        }
    }
}

/// A socket with what it is for; none at the end.
fn receive(stream: &UnixStream) -> io::Result<Option<(Purpose, Socket)>> {
    match receive_letter(stream)? {
        (END, None) => Ok(None),
        (letter, Some(descriptor)) => match Purpose::of_letter(letter) {
            Some(purpose) => Ok(Some((purpose, Socket::from(descriptor)))),
            None => Err(ErrorKind::InvalidData.into()),
        },
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// What is left, up to the good-bye; none where nothing is.
fn receive_estate(stream: &mut UnixStream) -> io::Result<Option<Estate>> {
    let (mut descriptors, mut state) = (Vec::new(), None);
    loop {
        match receive_letter(stream)? {
            (DESCRIPTOR, Some(descriptor)) if descriptors.len() < Estate::DESCRIPTORS_MAX => {
                descriptors.push(descriptor);
            }
            (STATE, None) if state.is_none() => {
                let mut len = [0; 4];
                stream.read_exact(&mut len)?;
                let len = u32::from_le_bytes(len) as usize;
                if len > Estate::LEN_MAX {
                    return Err(ErrorKind::InvalidData.into());
                }
                let mut bytes = vec![0; len];
                stream.read_exact(&mut bytes)?;
                state = Some(bytes);
            }
            (GOODBYE, None) => return Ok(state.map(|bytes| Estate { bytes, descriptors })),
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

fn send_estate(stream: &UnixStream, estate: &Estate) -> io::Result<()> {
    let fits = estate.bytes.len() <= Estate::LEN_MAX && estate.descriptors.len() <= Estate::DESCRIPTORS_MAX;
    if !fits {
        return Err(io::Error::new(ErrorKind::InvalidInput, "more is left than a successor takes"));
    }
    for descriptor in &estate.descriptors {
        send(stream, DESCRIPTOR, descriptor)?;
    }
    let mut stream = stream;
    stream.write_all(&[STATE])?;
    stream.write_all(&(estate.bytes.len() as u32).to_le_bytes())?;
    stream.write_all(&estate.bytes)
}

/// A letter, and the descriptor that came with it.
fn receive_letter(stream: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut letter = [0];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut letter)];
    let received = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((letter[0], descriptor))
}

fn send(stream: &UnixStream, letter: u8, descriptor: &impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(stream, &[IoSlice::new(&[letter])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn octet(stream: &mut UnixStream) -> io::Result<u8> {
    let mut octet = [0];
    stream.read_exact(&mut octet)?;
    Ok(octet[0])
}

/// What a successor wants.
#[derive(Debug)]
pub enum Succession {
    /// It starts, and wants what only one process can hold (a directory's lock). Answering goes on.
    /// Say [`LetGo::done`] when it is free.
    Wanted(LetGo),
    /// It answers, and takes what only one process can use at a time: heard by those who said
    /// [`Inherited::leave_estate`]. Say [`Leave::leave`] at once, with what
    /// there is. Without an answer there is nothing.
    Heir(Leave),
    /// It answers. This process has stopped reading; [`Running::shutdown`](crate::Running::shutdown)
    /// serves what is open and ends.
    Done,
    /// It ended before it answered, and this process has let go: start anew.
    Failed,
}

/// The answer to [`Succession::Wanted`].
#[derive(Debug)]
pub struct LetGo(oneshot::Sender<()>);

impl LetGo {
    /// Everything is free.
    pub fn done(self) {
        // Who does not wait any more has ended.
        let _ = self.0.send(());
    }
}

/// The answer to [`Succession::Heir`].
#[derive(Debug)]
pub struct Leave(oneshot::Sender<Estate>);

impl Leave {
    /// This is the successor's from now on.
    pub fn leave(self, estate: Estate) {
        // Who does not wait any more has ended; then it goes as it would have with this process.
        let _ = self.0.send(estate);
    }
}

/// Waits for successors.
pub(crate) struct Waiting {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    descriptors: Descriptors,
    leaves: bool,
    pub(crate) events: mpsc::Sender<Succession>,
}

impl Waiting {
    /// Listens at `path`, in place of whoever did.
    pub(crate) fn listen(
        path: &Path,
        (descriptors, leaves): (Descriptors, bool),
        events: mpsc::Sender<Succession>,
    ) -> io::Result<Waiting> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        // Of a process that had the same number once.
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        Ok(Waiting { listener, path: path.to_owned(), inode, descriptors, leaves, events })
    }

    /// Serves one successor after the other until one is ready; gives the stream on which to say
    /// good-bye. Never without one.
    pub(crate) async fn succeeded(&self) -> Farewell {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let uid = stream.peer_cred().map(|peer| peer.uid());
            if !uid.as_ref().is_ok_and(|uid| *uid == 0 || *uid == rustix::process::geteuid().as_raw()) {
                tracing::warn!(?uid, "somebody else's process wants the sockets");
                continue;
            }
            match self.offer(stream).await {
                Ok(farewell) => return farewell,
                Err(error) => tracing::warn!(%error, "a successor did not take over"),
            }
        }
    }

    async fn offer(&self, stream: tokio::net::UnixStream) -> io::Result<Farewell> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        tracing::info!("a successor asks for the sockets");
        let open: Vec<(Purpose, Socket)> = {
            let table = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
            let all = table.values().flatten();
            all.map(|(purpose, socket)| Ok((*purpose, socket.try_clone()?))).collect::<io::Result<_>>()?
        };
        for (purpose, socket) in open {
            send(&stream, purpose.letter(), &socket)?;
        }
        (&stream).write_all(&[END])?;
        let (mut stream, mut word) = hear(stream).await?;
        let mut let_go = false;
        if word == PREPARE {
            let (done, waits) = oneshot::channel();
            let wanted = Succession::Wanted(LetGo(done));
            self.events.send(wanted).await.map_err(|_| ErrorKind::Other)?;
            let_go = true;
            waits.await.map_err(|_| ErrorKind::Other)?;
            if stream.write_all(&[PREPARE]).is_ok()
                && let Ok((heard, next)) = hear(stream).await
            {
                (stream, word) = (heard, next);
                if word == READY {
                    return self.bequeath(stream).await;
                }
            }
        } else if word == READY {
            return self.bequeath(stream).await;
        }
        if let_go {
            let _ = self.events.send(Succession::Failed).await;
        }
        Err(ErrorKind::InvalidData.into())
    }
}

impl Waiting {
    /// The successor answers: it gets what is left to it. Whatever fails here, it goes on without.
    async fn bequeath(&self, stream: UnixStream) -> io::Result<Farewell> {
        if !self.leaves {
            return Ok(Farewell(stream));
        }
        let (leave, left) = oneshot::channel();
        if self.events.send(Succession::Heir(Leave(leave))).await.is_err() {
            return Ok(Farewell(stream));
        }
        let Ok(estate) = left.await else { return Ok(Farewell(stream)) };
        let sent = spawn_blocking(move || {
            let sent = send_estate(&stream, &estate);
            (stream, sent)
        });
        let (stream, sent) = sent.await?;
        if let Err(error) = sent {
            tracing::warn!(%error, "a successor did not get everything");
        }
        Ok(Farewell(stream))
    }
}

impl std::ops::Drop for Waiting {
    fn drop(&mut self) {
        // Only what is ours still: a successor has put its own in place.
        if fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Waits for a process that follows this one, where this one has no redirector.
pub struct Successors {
    events: mpsc::Receiver<Succession>,
    waiting: JoinHandle<()>,
}

impl Successors {
    /// Relieves the process before this one, if `inherited` is of one, and listens at `path` with the
    /// sockets that are to be [passed on](Inherited::pass_on).
    pub async fn listen(path: &Path, inherited: Inherited) -> io::Result<Successors> {
        let (events, successions) = mpsc::channel(1);
        let descriptors = Descriptors::default();
        descriptors.lock().unwrap_or_else(PoisonError::into_inner).insert(0, inherited.beside);
        let waiting = Waiting::listen(path, (descriptors, inherited.leaves), events)?;
        if let Some(predecessor) = inherited.predecessor {
            predecessor.relieve_and_tell().await;
        }
        let waiting = tokio::spawn(async move {
            waiting.succeeded().await.say();
            // Whoever does not listen any more ends already.
            let _ = waiting.events.send(Succession::Done).await;
        });
        Ok(Successors { events: successions, waiting })
    }

    /// What a successor wants next.
    pub async fn next(&mut self) -> Succession {
        match self.events.recv().await {
            Some(succession) => succession,
            None => std::future::pending().await,
        }
    }
}

impl std::ops::Drop for Successors {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

async fn hear(mut stream: UnixStream) -> io::Result<(UnixStream, u8)> {
    spawn_blocking(move || octet(&mut stream).map(|word| (stream, word))).await?
}

/// A successor that waits for this process to stop reading.
pub(crate) struct Farewell(UnixStream);

impl Farewell {
    pub(crate) fn say(mut self) {
        // Whether it heard makes no difference any more.
        let _ = self.0.write_all(&[GOODBYE]);
    }
}

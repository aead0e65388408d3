//! UDP: threads that answer, and the one that compiles for them.

use crate::capture::Engine;
use crate::fast::compiler;
use crate::fast::respond::Responder;
use crate::fast::worker::Worker;
use crate::limit::Limiter;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// The threads. They end when this is dropped, within a tenth of a second.
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// One for each socket, which begin to answer at once.
    pub(crate) fn start(
        sockets: Vec<UdpSocket>,
        engine: &Engine,
        limiter: &Arc<Limiter>,
        fast_path: bool,
    ) -> io::Result<Threads> {
        let current = compiler::first(engine);
        let workers = sockets
            .into_iter()
            .map(|socket| {
                let responder = Responder::new(engine.clone(), current.load_full());
                let responder = if fast_path { responder } else { responder.without_fast_path() };
                Worker::new(socket, engine.clone(), current.clone(), responder, limiter.clone())
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut threads = Threads { stop: Arc::default(), handles: Vec::new() };
        let engine = engine.clone();
        threads.spawn("dns-compile", move |stop| compiler::run(&engine, &current, stop))?;
        for worker in workers {
            threads.spawn("dns-udp", move |stop| worker.run(stop))?;
        }
        Ok(threads)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(&AtomicBool) + Send + 'static) -> io::Result<()> {
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.handles.push(thread.spawn(move || run(&stop))?);
        Ok(())
    }

    /// Waits until told to stop, then for the threads to end.
    pub(crate) async fn run(mut self, mut stopped: watch::Receiver<()>) {
        // Without a sender it is over as well.
        let _ = stopped.changed().await;
        self.stop.store(true, Ordering::Relaxed);
        let handles = std::mem::take(&mut self.handles);
        let join = || handles.into_iter().for_each(|handle| drop(handle.join()));
        if tokio::task::spawn_blocking(join).await.is_err() {
            tracing::warn!("a thread did not end well");
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Leaves header and question of a reply, and sets TC: *ask again over TCP*. Answers the length.
pub(crate) fn truncate(reply: &mut [u8]) -> usize {
    let mut end = 12;
    let questions = reply.get(4..6).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    if questions == 1 {
        while let Some(len @ 1..=63) = reply.get(end) {
            end += usize::from(*len) + 1;
        }
        end += 1 + 4;
    }
    if end > reply.len() {
        return reply.len();
    }
    reply[2] |= 0x02;
    reply[6..12].fill(0);
    end
}

//! UDP: threads that answer, and the one that compiles for them.

use crate::capture::Engine;
use crate::fast::compiler::{self, Current};
use crate::fast::respond::Responder;
use crate::fast::worker::Worker;
use crate::limit::Limiter;
use crate::listeners::{Stop, Stopped};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

/// What threads read their orders from.
#[derive(Clone, Default)]
pub(crate) struct Orders(Arc<AtomicU8>);

impl Orders {
    /// Answer on.
    const GO_ON: u8 = 0;
    /// Answer what is queued, and end.
    const END: u8 = 1;
    /// The same, and let nothing more into the queue: nobody else reads it.
    const LEAVE: u8 = 2;

    pub(crate) fn go_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Orders::GO_ON
    }

    pub(crate) fn leave(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Orders::LEAVE
    }

    fn give(&self, order: u8) {
        self.0.store(order, Ordering::Relaxed);
    }
}

/// The thread that compiles views for all others. It ends when this is dropped, within a tenth of a
/// second.
pub(crate) struct Compiler {
    current: Current,
    _thread: Threads,
}

impl Compiler {
    /// Compiles the current view, and each new one beside the queries.
    pub(crate) fn start(engine: &Engine) -> io::Result<Compiler> {
        let current = compiler::first(engine);
        let (engine, compiled) = (engine.clone(), current.clone());
        let mut thread = Threads::default();
        thread.spawn("dns-compile", move |orders| compiler::run(&engine, &compiled, orders))?;
        Ok(Compiler { current, _thread: thread })
    }
}

/// Threads. They end when this is dropped, within a tenth of a second.
#[derive(Default)]
pub(crate) struct Threads {
    orders: Orders,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// One for each socket, which begin to answer at once.
    pub(crate) fn start(
        sockets: Vec<UdpSocket>,
        engine: &Engine,
        compiler: &Compiler,
        limiter: &Arc<Limiter>,
        fast_path: bool,
    ) -> io::Result<Threads> {
        let current = &compiler.current;
        let workers = sockets
            .into_iter()
            .map(|socket| {
                let responder = Responder::new(engine.clone(), current.load_full());
                let responder = if fast_path { responder } else { responder.without_fast_path() };
                Worker::new(socket, engine.clone(), current.clone(), responder, limiter.clone())
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut threads = Threads::default();
        for worker in workers {
            threads.spawn("dns-udp", move |orders| worker.run(orders))?;
        }
        Ok(threads)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(&Orders) + Send + 'static) -> io::Result<()> {
        let orders = self.orders.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.handles.push(thread.spawn(move || run(&orders))?);
        Ok(())
    }

    /// Waits until told to stop, then for the threads to end.
    pub(crate) async fn run(mut self, mut stopped: Stopped) {
        let order = match stopped.changed().await {
            Stop::Ends => Orders::END,
            Stop::Leaves => Orders::LEAVE,
        };
        self.orders.give(order);
        let handles = std::mem::take(&mut self.handles);
        let join = || handles.into_iter().for_each(|handle| drop(handle.join()));
        if tokio::task::spawn_blocking(join).await.is_err() {
            tracing::warn!("a thread did not end well");
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.orders.go_on() {
            self.orders.give(Orders::END);
        }
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

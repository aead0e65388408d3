//! The fabric's thread: waits for packets and for the moment the next one is due.

use super::pcap::Capture;
use super::{Announcement, LinkChange, Move, Report, Switch};
use anyhow::Context;
use godwit_net::offload::Train;
use godwit_net::poll::{Doorbell, Poll, Timer, monotonic};
use godwit_net::port::{BUFFER_LEN, Buffer, Port};
use godwit_net::process;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, mpsc::SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many packets are read from one port before the others and the clock get their turn: at 4 µs
/// each, a quarter of a millisecond.
const BATCH: usize = 64;

/// With more packets than this under way, wake-ups fall on a grid of [`GRID`]: setting the timer for
/// each packet of a full 1 Gbit/s link (one every 12 µs) would cost a third of the fabric's time.
const BUSY: u64 = 256;

/// The grid: late by 50 µs on average while busy, which [`super::Lateness`] sees and reports.
const GRID: Duration = Duration::from_micros(100);

/// Numbers of what is waited for beside ports.
const TIMER: u64 = u64::MAX;
const DOORBELL: u64 = u64::MAX - 1;

/// A running fabric; it ends when this is dropped.
#[derive(Debug)]
pub struct Fabric {
    handle: FabricHandle,
    thread: Option<JoinHandle<()>>,
}

/// A way to talk to the fabric from any thread.
#[derive(Clone, Debug)]
pub struct FabricHandle {
    orders: Sender<Order>,
    doorbell: Arc<Doorbell>,
}

enum Order {
    Change(Vec<LinkChange>),
    Announce(Announcement),
    WithdrawAll(u16),
    Filter(u16, bool),
    Rehome(Move),
    Report(SyncSender<Report>),
    End,
}

impl Fabric {
    /// Starts carrying packets between `ports`, which have the numbers of the switch's hosts.
    pub fn start(switch: Switch, ports: Vec<Port>, capture: Option<&Path>) -> anyhow::Result<Fabric> {
        let doorbell = Arc::new(Doorbell::new().context("cannot make a doorbell")?);
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        poll.add(timer.as_fd(), TIMER)?;
        poll.add(doorbell.as_fd(), DOORBELL)?;
        for (number, port) in ports.iter().enumerate() {
            poll.add(port.as_fd(), number as u64)?;
        }
        let capture = match capture {
            Some(path) => Some(Capture::create(path, monotonic()).context("cannot write the capture")?),
            None => None,
        };
        let (orders, inbox) = channel();
        let handle = FabricHandle { orders, doorbell: doorbell.clone() };
        let engine = Engine {
            switch,
            ports,
            timer,
            doorbell,
            inbox,
            capture,
            buffer: Box::new([0; BUFFER_LEN]),
            real_time: false,
        };
        let thread = std::thread::Builder::new().name("fabric".into()).spawn(move || engine.run(poll))?;
        Ok(Fabric { handle, thread: Some(thread) })
    }

    /// A way to talk to it.
    pub fn handle(&self) -> FabricHandle {
        self.handle.clone()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.handle.order(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl FabricHandle {
    /// Changes links, all at once.
    pub fn change(&self, changes: Vec<LinkChange>) {
        self.order(Order::Change(changes));
    }

    /// A host begins or ends to announce an address.
    pub fn announce(&self, change: Announcement) {
        self.order(Order::Announce(change));
    }

    /// The routers around a host have lost it.
    pub fn withdraw_all(&self, host: u16) {
        self.order(Order::WithdrawAll(host));
    }

    /// Lets out of a host only what comes from its own addresses, or all.
    pub fn filter(&self, host: u16, filter: bool) {
        self.order(Order::Filter(host, filter));
    }

    /// A host has another address.
    pub fn rehome(&self, change: Move) {
        self.order(Order::Rehome(change));
    }

    /// What the fabric has done so far; `None` when it has ended.
    pub fn report(&self) -> Option<Report> {
        let (answer, report) = sync_channel(1);
        self.order(Order::Report(answer));
        report.recv().ok()
    }

    fn order(&self, order: Order) {
        // A fabric that has ended has no use for orders.
        let _ = self.orders.send(order);
        self.doorbell.ring();
    }
}

struct Engine {
    switch: Switch,
    ports: Vec<Port>,
    timer: Timer,
    doorbell: Arc<Doorbell>,
    inbox: Receiver<Order>,
    capture: Option<Capture>,
    buffer: Box<Buffer>,
    real_time: bool,
}

/// Whether to go on.
#[derive(PartialEq)]
enum Next {
    Go,
    End,
}

impl Engine {
    fn run(mut self, mut poll: Poll) {
        self.real_time = process::run_first().is_ok();
        // Ports stay in order; only those that are readable are looked at.
        let mut ready = Vec::with_capacity(self.ports.len());
        loop {
            if self.timer.set(self.next_wake()).is_err() {
                return;
            }
            ready.clear();
            match poll.wait() {
                Ok(numbers) => ready.extend(numbers),
                Err(_) => return,
            }
            self.deliver();
            for number in &ready {
                match *number {
                    TIMER => self.timer.clear(),
                    DOORBELL => {
                        self.doorbell.clear();
                        if self.obey() == Next::End {
                            return;
                        }
                    }
                    port => {
                        self.collect(port as u16);
                        self.deliver();
                    }
                }
            }
        }
    }

    /// When to look at the queue again.
    fn next_wake(&self) -> Option<Duration> {
        let due = self.switch.next_due()?;
        if self.switch.under_way() <= BUSY {
            return Some(due);
        }
        let grid = GRID.as_nanos() as u64;
        Some(Duration::from_nanos((due.as_nanos() as u64).next_multiple_of(grid)))
    }

    /// Reads what a host sent.
    fn collect(&mut self, from: u16) {
        let Engine { switch, ports, buffer, .. } = self;
        let Some(port) = ports.get_mut(usize::from(from)) else { return };
        let now = monotonic();
        for _ in 0..BATCH {
            // An interface that is gone reads as an error for ever; there is nobody to tell.
            if !port.receive(buffer, |train| switch.accept(now, from, train)).unwrap_or(false) {
                return;
            }
        }
    }

    /// Hands over what is due.
    fn deliver(&mut self) {
        let Engine { switch, ports, capture, .. } = self;
        loop {
            // The clock is read for each packet: a batch takes long enough for more to fall due.
            let now = monotonic();
            let more = switch.depart(now, |departure| {
                if let Some(open) = capture
                    && open.add(now, departure.train).is_err()
                {
                    *capture = None;
                }
                send(&mut ports[usize::from(departure.to)], departure.train)
            });
            if !more {
                return;
            }
        }
    }

    fn obey(&mut self) -> Next {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Change(changes)) => {
                    changes.into_iter().for_each(|change| self.switch.change(change))
                }
                Ok(Order::Announce(change)) => self.switch.announce(change),
                Ok(Order::WithdrawAll(host)) => self.switch.withdraw_all(host),
                Ok(Order::Filter(host, filter)) => self.switch.filter(host, filter),
                Ok(Order::Rehome(change)) => self.switch.rehome(change),
                Ok(Order::Report(answer)) => {
                    // Who asks may want to read the capture next.
                    self.capture.as_mut().map(Capture::flush);
                    let _ = answer.try_send(Report { real_time: self.real_time, ..self.switch.report() });
                }
                Ok(Order::End) | Err(TryRecvError::Disconnected) => {
                    self.capture.as_mut().map(Capture::flush);
                    return Next::End;
                }
                Err(TryRecvError::Empty) => return Next::Go,
            }
        }
    }
}

/// Whether the host took the packet. A packet that its interface refuses (too long, or down) was
/// carried, and is the host's to lose.
fn send(port: &mut Port, train: Train<'_>) -> bool {
    match port.send(train) {
        Ok(()) => true,
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory)
                && error.raw_os_error() != Some(libc::ENOBUFS)
        }
    }
}

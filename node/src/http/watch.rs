//! How far a connection's responses have gone, so that it can go on elsewhere.
//!
//! What hyper has taken from a body and not written yet is known to nobody but hyper. What was written is
//! enough: responses follow each other without a gap, each has a head that is written first, and a length
//! that is known. So the octets written tell which octet of which file is next, and nothing that hyper
//! still holds is needed.
//!
//! Connections that cannot move have no watch, and no costs.

use super::moved::{Plan, Rest};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Of a connection that can move. All its parts run in one task; atomics only please the compiler.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Octets written to the socket.
    written: AtomicU64,
    /// Whether a request was heard whose response has not begun.
    answering: AtomicBool,
    /// Whether the next write begins with the head of a response.
    head_next: AtomicBool,
    /// Whether what is written can be told apart no more: requests came before responses were out.
    lost: AtomicBool,
    sending: Mutex<Sending>,
    /// What was sent before there was a watch.
    before: Option<Rest>,
}

/// The response that is being sent, or was sent last.
#[derive(Clone, Debug, Default)]
struct Sending {
    /// So many octets were written before its body; `None` before its head is out.
    body_at: Option<u64>,
    /// Octets of its body.
    len: u64,
    plan: Option<Plan>,
    close: bool,
    /// Whether the request had a body, which may not have been read.
    with_body: bool,
}

/// What the service knows of a response.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// Octets of its body; `None` where that is not known.
    pub(super) len: Option<u64>,
    /// Of which file they are.
    pub(super) plan: Option<Plan>,
    /// Whether the connection ends with it.
    pub(super) close: bool,
    /// Whether the request had a body.
    pub(super) with_body: bool,
}

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    /// A response is due, or its head is on its way: it will soon be otherwise.
    Busy,
    /// It will not be otherwise for as long as that takes.
    Stuck,
    /// It can go on elsewhere: in the body of a response, or after it.
    Clear {
        /// The response, where there was one of a file; all of it may be out.
        rest: Option<Rest>,
        /// Whether the connection ends with it.
        close: bool,
    },
}

impl Standing {
    fn is_between_requests(&self) -> bool {
        let out = |rest: &Rest| rest.next == rest.plan.end;
        matches!(self, Standing::Clear { rest, .. } if rest.as_ref().is_none_or(out))
    }
}

impl Watch {
    /// Of a connection on which this was sent before, to its end.
    pub(super) fn new(before: Option<Rest>) -> Watch {
        Watch { before, ..Watch::default() }
    }

    /// A request was heard.
    pub(super) fn asked(&self) {
        self.answering.store(true, Relaxed);
        if !self.standing_but_answer().is_between_requests() {
            self.lost.store(true, Relaxed);
        }
    }

    /// Its response is known.
    pub(super) fn answered(&self, note: Note) {
        let Note { len, plan, close, with_body } = note;
        if len.is_none() {
            self.lost.store(true, Relaxed);
        }
        *self.lock() = Sending { body_at: None, len: len.unwrap_or_default(), plan, close, with_body };
        self.head_next.store(true, Relaxed);
        self.answering.store(false, Relaxed);
    }

    /// Something is about to be written; these are its first octets.
    pub(super) fn writing(&self, first: &[u8]) {
        if !self.head_next.load(Relaxed) {
            return;
        }
        self.head_next.store(false, Relaxed);
        if first.ends_with(b"\r\n\r\n") {
            self.lock().body_at = Some(self.written.load(Relaxed) + first.len() as u64);
        } else {
            self.lost.store(true, Relaxed);
        }
    }

    /// So many octets were written.
    pub(super) fn wrote(&self, len: usize) {
        self.written.store(self.written.load(Relaxed) + len as u64, Relaxed);
    }

    /// Where the connection stands.
    pub(super) fn standing(&self) -> Standing {
        if self.lost.load(Relaxed) {
            return Standing::Stuck;
        }
        if self.answering.load(Relaxed) {
            return Standing::Busy;
        }
        self.standing_but_answer()
    }

    fn standing_but_answer(&self) -> Standing {
        let (sending, written) = (self.lock().clone(), self.written.load(Relaxed));
        if self.head_next.load(Relaxed) {
            return Standing::Busy;
        }
        // Nothing was answered yet: whatever was written, the service knows nothing of it.
        let Some(at) = sending.body_at else {
            let before = Standing::Clear { rest: self.before.clone(), close: false };
            return if written == 0 { before } else { Standing::Stuck };
        };
        let Some(sent) = written.checked_sub(at) else { return Standing::Busy };
        if sending.with_body || sent > sending.len {
            return Standing::Stuck;
        }
        let close = sending.close;
        match sending.plan {
            Some(plan) => Standing::Clear { rest: Some(Rest { next: plan.start + sent, plan }), close },
            None if sent == sending.len => Standing::Clear { rest: None, close },
            // Nobody could make the rest of it anew.
            None => Standing::Busy,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(len: u64, plan: bool) -> Note {
        let plan = plan.then(|| super::super::moved::tests::plan(len));
        Note { len: Some(len), plan, close: false, with_body: false }
    }

    #[test]
    fn octets_written_tell_where_a_response_stands() {
        let watch = Watch::default();
        assert_eq!(watch.standing(), Standing::Clear { rest: None, close: false });
        watch.asked();
        assert_eq!(watch.standing(), Standing::Busy);
        watch.answered(note(1000, true));
        assert_eq!(watch.standing(), Standing::Busy);
        watch.writing(b"HTTP/1.1 200 OK\r\n\r\n");
        watch.wrote(10);
        assert_eq!(watch.standing(), Standing::Busy);
        watch.writing(b"K\r\n\r\n");
        watch.wrote(9 + 300);
        let clear = |next| {
            let rest = Some(Rest { plan: super::super::moved::tests::plan(1000), next });
            Standing::Clear { rest, close: false }
        };
        assert_eq!(watch.standing(), clear(300));
        watch.wrote(700);
        assert_eq!(watch.standing(), clear(1000));
        watch.asked();
        watch.answered(Note { close: true, ..note(5, false) });
        watch.writing(b"HTTP/1.1 404 Not Found\r\n\r\n");
        watch.wrote(28);
        assert_eq!(watch.standing(), Standing::Busy);
        watch.wrote(3);
        assert_eq!(watch.standing(), Standing::Clear { rest: None, close: true });
        let before = Rest { plan: super::super::moved::tests::plan(7), next: 7 };
        let standing = Watch::new(Some(before.clone())).standing();
        assert_eq!(standing, Standing::Clear { rest: Some(before), close: false });
    }

    #[test]
    fn what_cannot_be_told_is_not_guessed() {
        let begun = || {
            let watch = Watch::default();
            watch.asked();
            watch.answered(note(10, true));
            watch.writing(b"head\r\n\r\n");
            watch.wrote(8);
            watch
        };
        // A second request before the first response is out.
        let watch = begun();
        watch.asked();
        assert_eq!(watch.standing(), Standing::Stuck);
        // More than the response has.
        let watch = begun();
        watch.wrote(11);
        assert_eq!(watch.standing(), Standing::Stuck);
        // A head that is not alone.
        let watch = Watch::default();
        watch.asked();
        watch.answered(note(10, true));
        watch.writing(b"head\r\n\r\nbody");
        assert_eq!(watch.standing(), Standing::Stuck);
        // A response that nobody was asked for.
        let watch = Watch::default();
        watch.writing(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        watch.wrote(28);
        assert_eq!(watch.standing(), Standing::Stuck);
        // A request with a body.
        let watch = Watch::default();
        watch.asked();
        watch.answered(Note { with_body: true, ..note(0, false) });
        watch.writing(b"head\r\n\r\n");
        watch.wrote(8);
        assert_eq!(watch.standing(), Standing::Stuck);
    }
}

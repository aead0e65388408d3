//! Responses that are being sent while the member lets go of its store for a successor: the rest of
//! their objects is opened beforehand, and read to the end without the index.

use crate::content::{Content, Handle};
use godwit_core::content::ObjectId;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Objects held open for one response: 4 GiB of it. A longer one is cut off there, and its client
/// asks for the rest of the successor.
const OPEN_MAX: usize = 64;

/// The objects of a response's body, in order.
#[derive(Debug)]
pub(super) struct Sending {
    objects: Vec<ObjectId>,
    /// Those opened beforehand, the first of them by its place.
    open: OnceLock<(usize, Vec<Handle>)>,
    /// How many were sent.
    sent: Mutex<usize>,
}

impl Sending {
    /// None sent yet.
    pub(super) fn new(objects: Vec<ObjectId>) -> Sending {
        Sending { objects, open: OnceLock::new(), sent: Mutex::default() }
    }

    /// Object number `index`, which is sent next; and itself, if it was opened beforehand.
    pub(super) fn object(&self, index: usize) -> Option<(ObjectId, Option<Handle>)> {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = index;
        let ahead = self.open.get().and_then(|(first, open)| open.get(index.checked_sub(*first)?)).cloned();
        Some((*self.objects.get(index)?, ahead))
    }
}

/// All responses being sent.
#[derive(Debug, Default)]
pub(super) struct AllSending(Mutex<Vec<Weak<Sending>>>);

impl AllSending {
    /// One more.
    pub(super) fn add(&self, sending: &Arc<Sending>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|one| one.strong_count() > 0);
        }
        all.push(Arc::downgrade(sending));
    }

    /// Opens what each still has to send. What is not here is left out, and cuts its response off.
    pub(super) async fn hold_open(&self, content: &Content) {
        let all: Vec<Arc<Sending>> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for sending in all {
            let first = *sending.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let mut open = Vec::new();
            for id in sending.objects.iter().skip(first).take(OPEN_MAX) {
                let Some(handle) = content.here(*id).await else { break };
                open.push(handle);
            }
            // It is set once: a member hands over once.
            let _ = sending.open.set((first, open));
        }
    }
}

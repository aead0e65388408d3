//! Which objects come in at this moment: who else wants one waits for it, instead of fetching it
//! a second time or failing because somebody writes it already.

use godwit_core::content::ObjectId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The objects that come in. Each transfer has at most one batch of them under way.
#[derive(Default)]
pub(crate) struct Receiving {
    objects: Mutex<BTreeMap<ObjectId, watch::Receiver<()>>>,
}

/// While this is held, its object counts as coming in.
pub(crate) struct Ticket {
    id: ObjectId,
    receiving: Arc<Receiving>,
    /// Dropped after [`Drop::drop`] has run: whoever is woken finds the object gone from the map.
    _end: watch::Sender<()>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.receiving.lock().remove(&self.id);
    }
}

impl Receiving {
    /// The object begins to come in; `None` when it does already.
    pub(crate) fn begin(self: &Arc<Self>, id: ObjectId) -> Option<Ticket> {
        let mut objects = self.lock();
        if objects.contains_key(&id) {
            return None;
        }
        let (end, ended) = watch::channel(());
        objects.insert(id, ended);
        Some(Ticket { id, receiving: self.clone(), _end: end })
    }

    /// Waits until the object is durable or given up; false when it does not come in.
    pub(crate) async fn ended(&self, id: &ObjectId) -> bool {
        let Some(mut ended) = self.lock().get(id).cloned() else { return false };
        // Nothing is ever sent: this ends when the sender is gone.
        while ended.changed().await.is_ok() {}
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectId, watch::Receiver<()>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_when_the_object_is_there_or_given_up() {
        let receiving = Arc::new(Receiving::default());
        let id = ObjectId::of(b"large");
        assert!(!receiving.ended(&id).await, "nobody receives it");
        let ticket = receiving.begin(id).unwrap();
        assert!(receiving.begin(id).is_none(), "one at a time");
        let waiting = tokio::spawn({
            let receiving = receiving.clone();
            async move { receiving.ended(&id).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(ticket);
        assert!(waiting.await.unwrap());
        assert!(receiving.begin(id).is_some());
    }
}

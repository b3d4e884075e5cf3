//! Work that this process does once per key at a time: who comes second waits for the first.
//!
//! Spares the database and the provider the crowd; what replicas may do at the same time is settled in the database.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The keys that somebody works on. A clone is the same list.
#[derive(Debug, Clone, Default)]
pub struct SingleFlight(Arc<Mutex<HashMap<String, watch::Receiver<()>>>>);

impl SingleFlight {
    /// Joins the work on `key`. Who gets a [`Lead`] does it and keeps the value until it is done; everybody may wait for [`Done`].
    #[must_use]
    pub fn join(&self, key: &str) -> (Option<Lead>, Done) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = flights.get(key) {
            return (None, Done(done.clone()));
        }
        let (sender, done) = watch::channel(());
        flights.insert(key.to_owned(), done.clone());
        let lead = Lead { key: key.to_owned(), flights: self.clone(), _open: sender };
        (Some(lead), Done(done))
    }
}

/// Whoever holds this does the work. Dropping it ends the work, whatever became of it.
#[derive(Debug)]
pub struct Lead {
    key: String,
    flights: SingleFlight,
    /// Its end wakes everybody, after the key is free again.
    _open: watch::Sender<()>,
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The end of the work.
#[derive(Debug)]
pub struct Done(watch::Receiver<()>);

impl Done {
    pub async fn wait(mut self) {
        // Nothing is ever sent: the sender's end is the message.
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leads_the_others_wait_and_the_next_one_leads_again() {
        let flights = SingleFlight::default();
        let (lead, first) = flights.join("a");
        let lead = lead.unwrap();
        let (none, second) = flights.join("a");
        assert!(none.is_none());
        assert!(flights.join("b").0.is_some(), "another key is other work");
        let waiting = tokio::spawn(async move {
            first.wait().await;
            second.wait().await;
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(lead);
        waiting.await.unwrap();
        assert!(flights.join("a").0.is_some());
    }
}

//! Progress of one job: atomics only, no message per chunk. Read by progress bars and by the stall detector.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    items: AtomicU64,
    beat: AtomicU64,
    phase: Mutex<String>,
}

impl Progress {
    /// Counts raw bytes that passed and beats.
    pub fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.beat();
    }

    pub fn add_items(&self, items: u64) {
        self.items.fetch_add(items, Ordering::Relaxed);
    }

    /// "Still alive", where no bytes pass.
    pub fn beat(&self) {
        self.beat.fetch_add(1, Ordering::Relaxed);
    }

    /// Expected bytes; 0 means unknown.
    pub fn set_total(&self, bytes: u64) {
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub fn set_phase(&self, phase: impl Into<String>) {
        *self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = phase.into();
        self.beat();
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn total(&self) -> u64 {
        self.bytes_total.load(Ordering::Relaxed)
    }

    pub fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    pub fn beats(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }

    pub fn phase(&self) -> String {
        self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

//! Wall clock as a value that tests can replace.

use std::fmt::Debug;
use std::sync::Mutex;

use crate::domain::Timestamp;

pub trait Clock: Debug + Send + Sync + 'static {
    fn now(&self) -> Timestamp;
    /// 32 random bits for identifiers.
    fn random(&self) -> u32;
}

#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        chrono::Utc::now()
    }

    fn random(&self) -> u32 {
        uuid::Uuid::new_v4().as_fields().0
    }
}

/// A clock that stands still until it is moved, and counts instead of drawing random numbers.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, u32)>,
}

impl ManualClock {
    pub fn at(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, 0)) }
    }

    pub fn advance(&self, by: std::time::Duration) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn random(&self) -> u32 {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.1 += 1;
        state.1
    }
}

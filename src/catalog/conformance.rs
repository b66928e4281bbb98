//! What every adapter of this port must do; run by each of them in its tests.

//! Sandboxes made of local processes.

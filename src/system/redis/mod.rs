//! Redis and Valkey engine.

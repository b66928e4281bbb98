//! Turning captured bytes into stored segments and back.

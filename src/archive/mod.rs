//! Tar archives of file trees: writing, and unpacking without leaving the root.

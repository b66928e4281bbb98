//! Configuration: the on-disk shape (`raw`) and its check (`validate`).

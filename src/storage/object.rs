//! Storage in an S3-compatible service, through OpenDAL.

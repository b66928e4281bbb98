//! Evidence of recoveries and drills: reports for people and programs, generated from what was seen.

pub mod report;

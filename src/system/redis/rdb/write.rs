//! Writes an RDB out of records read from another: for restoring a choice of keys as a file.

use std::io::Write;

use super::window::CRC;
use super::{Header, Record, Usage, opcode};
use crate::error::{Error, Result, io_kind};

pub struct Writer<W> {
    out: W,
    sum: crc::Digest<'static, u64, crc::Table<16>>,
    db: Option<u64>,
    scratch: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out, sum: CRC.digest(), db: None, scratch: Vec::new() }
    }

    pub fn header(&mut self, header: &Header) -> Result<()> {
        self.scratch.extend_from_slice(header.magic.as_bytes());
        if let Some(version) = &header.server_version {
            self.auxiliary("redis-ver", version);
        }
        if let Some(created) = header.created_s {
            self.auxiliary("ctime", &created.to_string());
        }
        self.flush()
    }

    fn auxiliary(&mut self, name: &str, value: &str) {
        self.scratch.push(opcode::AUX);
        push_string(name.as_bytes(), &mut self.scratch);
        push_string(value.as_bytes(), &mut self.scratch);
    }

    pub fn record(&mut self, record: &Record<'_>) -> Result<()> {
        if self.db != Some(record.db) {
            self.db = Some(record.db);
            self.scratch.push(opcode::SELECT);
            push_length(record.db, &mut self.scratch);
        }
        if let Some(at) = record.expires_at_ms {
            self.scratch.push(opcode::EXPIRES_MS);
            self.scratch.extend(at.to_le_bytes());
        }
        match record.usage {
            Usage::Unknown => {}
            Usage::IdleSeconds(seconds) => {
                self.scratch.push(opcode::IDLE);
                push_length(seconds, &mut self.scratch);
            }
            Usage::Frequency(counter) => self.scratch.extend([opcode::FREQUENCY, counter]),
        }
        self.scratch.push(record.encoding);
        push_string(record.key, &mut self.scratch);
        self.scratch.extend_from_slice(record.raw);
        self.flush()
    }

    #[cfg(test)]
    pub fn function(&mut self, code: &[u8]) -> Result<()> {
        self.scratch.push(opcode::FUNCTION);
        push_string(code, &mut self.scratch);
        self.flush()
    }

    pub fn finish(mut self) -> Result<W> {
        self.scratch.push(opcode::END);
        self.flush()?;
        let sum = self.sum.clone().finalize();
        self.scratch.extend(sum.to_le_bytes());
        self.flush()?;
        Ok(self.out)
    }

    fn flush(&mut self) -> Result<()> {
        self.sum.update(&self.scratch);
        let written = self.out.write_all(&self.scratch);
        self.scratch.clear();
        written.map_err(|e| Error::new(io_kind(&e), "write RDB").because(e))
    }
}

pub(super) fn push_length(n: u64, out: &mut Vec<u8>) {
    match n {
        0..=0x3f => out.push(n as u8),
        0x40..=0x3fff => out.extend([0x40 | (n >> 8) as u8, n as u8]),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend((n as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend(n.to_be_bytes());
        }
    }
}

pub(super) fn push_string(text: &[u8], out: &mut Vec<u8>) {
    push_length(text.len() as u64, out);
    out.extend_from_slice(text);
}

//! The pipeline alone against a shell pipe, in turns: a file of half text and half random bytes into encrypted backup
//! storage, and back to nothing.
//!
//! `cargo bench --bench pipeline`; `LIFEBOAT_BENCH_MIB` (2048), `LIFEBOAT_BENCH_ROUNDS` (5) and `LIFEBOAT_BENCH_DIR` (the
//! system's temporary directory) change what is measured. Needs `tar`, `zstd` and `age`, and three times the file's room.
#![expect(clippy::print_stdout, reason = "a table for a person is what this program is for")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use lifeboat::domain::id::{ArtifactName, BackupId, SystemName};
use lifeboat::domain::manifest::{Artifact, FORMAT_VERSION, Manifest, SegmentEncoding};
use lifeboat::error::{Error, ErrorKind, IoContext, Result};
use lifeboat::pipeline::block::BlockPool;
use lifeboat::pipeline::keys::{self, Identities, NewKeys};
use lifeboat::pipeline::segment::{SEGMENT_BYTES_DEFAULT, ZSTD_LEVEL_DEFAULT};
use lifeboat::pipeline::sink::SegmentSink;
use lifeboat::pipeline::source::SegmentSource;
use lifeboat::runtime::JobContext;
use lifeboat::runtime::child::Program;
use lifeboat::storage::Storage;
use lifeboat::storage::local::LocalStorage;
use lifeboat::system::{BackupSink, BackupSource};

const MIB: usize = 1024 * 1024;
const PIECE_BYTES: usize = 4 * MIB;
/// The kernel counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

struct Bench {
    home: PathBuf,
    file: PathBuf,
    bytes: u64,
    keys: NewKeys,
    artifact: ArtifactName,
    job: JobContext,
    /// MiB backing up and reading back.
    peaks: std::cell::Cell<(u64, u64)>,
    /// Of these, MiB of segments backing up.
    held: std::cell::Cell<usize>,
}

/// What one round took.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_io("start runtime", Path::new(""))?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    let base = std::env::var_os("LIFEBOAT_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let home = tempfile::Builder::new()
        .prefix("lifeboat-bench-")
        .tempdir_in(&base)
        .or_io("make directory", &base)?;
    let bench = Bench::new(home.path().to_owned(), setting("LIFEBOAT_BENCH_MIB", 2048)?)?;
    let rounds = setting("LIFEBOAT_BENCH_ROUNDS", 5)?.max(1);
    println!("{} MB, half text and half random, {rounds} rounds in turns", bench.bytes / 1_000_000);
    let idle = peak_mib();
    let (mut ours, mut shell, mut ceiling) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours_back, mut shell_back) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(bench.backup(&mut ours_back).await?);
        shell.push(bench.shell_backup().await?);
        shell_back.push(bench.shell_restore().await?);
        ceiling.push(bench.two_compressors().await?);
    }
    println!("{:44} {:>7} {:>7} {:>7} {:>7}", "", "min s", "med s", "MB/s", "CPU s");
    bench.row("lifeboat, durable, O_DIRECT", &ours);
    bench.row("tar | zstd -3 -T2 | age > file", &shell);
    bench.row("two zstd -3 side by side > /dev/null", &ceiling);
    bench.row("lifeboat, back to nothing", &ours_back);
    bench.row("age -d | zstd -d > /dev/null", &shell_back);
    println!("as fast as the shell pipe, medians: {:.2} times", median(&shell) / median(&ours));
    println!("of two compressors side by side: {:.2}", median(&ceiling) / median(&ours));
    println!("as fast as the shell pipe backwards: {:.2} times", median(&shell_back) / median(&ours_back));
    let (backup, restore) = bench.peaks.get();
    let held = bench.held.get();
    println!(
        "peak resident memory: {idle} MiB before, {backup} MiB backing up ({held} in segments), {restore} MiB reading back"
    );
    Ok(())
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|e| Error::new(ErrorKind::Config, "read setting").with("name", name).because(e)),
        Err(_) => Ok(default),
    }
}

fn median(all: &[Took]) -> f64 {
    let mut walls: Vec<f64> = all.iter().map(|t| t.wall).collect();
    walls.sort_by(f64::total_cmp);
    walls[walls.len() / 2]
}

/// Processor seconds of this process and of the children it waited for.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    // utime, stime, cutime and cstime are fields 14 to 17; the third is the first behind the name
    let ticks: f64 = fields.skip(11).take(4).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// Begins to count the peak anew.
fn forget_peak() {
    if std::fs::write("/proc/self/clear_refs", "5").is_err() {
        println!("the peak of memory cannot be reset here: it is that of the whole run");
    }
}

fn peak_mib() -> u64 {
    peak_kib().unwrap_or(0) / 1024
}

fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

impl Bench {
    fn new(home: PathBuf, mib: u64) -> Result<Self> {
        let job = JobContext::plain();
        let file = home.join("data.bin");
        let bytes = mib * MIB as u64;
        write_data(&file, bytes)?;
        Ok(Self {
            keys: keys::generate(&home.join("keys"), job.now())?,
            artifact: ArtifactName::parse("data.bin").map_err(|e| Error::bug("name artifact").because(e))?,
            home,
            file,
            bytes,
            job,
            peaks: std::cell::Cell::default(),
            held: std::cell::Cell::default(),
        })
    }

    fn row(&self, name: &str, all: &[Took]) {
        let best = all.iter().map(|t| t.wall).fold(f64::INFINITY, f64::min);
        let cpu = all.iter().map(|t| t.cpu).fold(f64::INFINITY, f64::min);
        let (middle, bytes) = (median(all), self.bytes as f64);
        println!("{name:44} {best:7.2} {middle:7.2} {:7.0} {cpu:7.2}", bytes / 1e6 / middle);
    }

    /// Backs the file up and reads it back; the time of the second goes to `back`.
    async fn backup(&self, back: &mut Vec<Took>) -> Result<Took> {
        let root = self.home.join("storage");
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(root.clone())?);
        forget_peak();
        let began = (Instant::now(), cpu_seconds());
        let system = SystemName::parse("bench").map_err(|e| Error::bug("name system").because(e))?;
        let id = BackupId::new(self.job.now(), self.job.clock().random());
        let encoding = SegmentEncoding {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            zstd_level: ZSTD_LEVEL_DEFAULT,
            recipients: vec![self.keys.recipient.clone()],
        };
        let sink = SegmentSink::new(&system, &id, storage.clone(), &encoding, self.job.clone())?;
        let mut writer = sink.artifact(&self.artifact).await?;
        let pool = Arc::new(BlockPool::default());
        let mut file = std::fs::File::open(&self.file).or_io("open data", &self.file)?;
        loop {
            let mut block = pool.take();
            let read = file.read(block.spare()).or_io("read data", &self.file)?;
            if read == 0 {
                break;
            }
            block.grow(read);
            writer.write(block.into_bytes()).await?;
        }
        writer.finish().await?;
        let artifacts = sink.finish().await?;
        let took = since(began);
        let peaks = self.peaks.get();
        self.peaks.set((peaks.0.max(peak_mib()), peaks.1));
        self.held.set(self.held.get().max(sink.held_bytes_max() / MIB));
        drop(sink);
        let manifest = self.manifest(system, id, encoding, artifacts);
        back.push(self.read_back(manifest, storage).await?);
        std::fs::remove_dir_all(&root).or_io("remove storage", &root)?;
        Ok(took)
    }

    fn manifest(
        &self,
        system: SystemName,
        id: BackupId,
        encoding: SegmentEncoding,
        artifacts: Vec<Artifact>,
    ) -> Manifest {
        use lifeboat::domain::backup::{BackupKind, Captured, Fingerprint, Position};
        let now = self.job.now();
        Manifest {
            format: FORMAT_VERSION,
            root: id.clone(),
            id,
            system,
            engine: "files".to_owned(),
            tier: None,
            kind: BackupKind::Full,
            parent: None,
            started_at: now,
            finished_at: now,
            lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: String::new(),
            captured: Captured {
                method: "bench".to_owned(),
                server_version: String::new(),
                position: Position { start: None, end: String::new() },
                captured_at: now,
                watermark: None,
                fingerprint: Fingerprint::default(),
                detail: serde_json::Value::Null,
                notes: Vec::new(),
            },
            segment_encoding: encoding,
            artifacts,
        }
    }

    async fn read_back(&self, manifest: Manifest, storage: Arc<dyn Storage>) -> Result<Took> {
        forget_peak();
        let began = (Instant::now(), cpu_seconds());
        let id = manifest.id.clone();
        let identities = Arc::new(Identities::load(&[&self.keys.identity])?.keys);
        let source = SegmentSource::new([(manifest, storage)], identities, &self.job);
        let mut stream = source.open(&id, &self.artifact, &self.job).await?;
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            bytes += chunk?.len() as u64;
        }
        if bytes != self.bytes {
            return Err(Error::new(ErrorKind::Corrupt, "read everything back").with("bytes", bytes));
        }
        let took = since(began);
        let peaks = self.peaks.get();
        self.peaks.set((peaks.0, peaks.1.max(peak_mib())));
        Ok(took)
    }

    async fn shell(&self, script: &str) -> Result<Took> {
        let began = (Instant::now(), cpu_seconds());
        let shell = Program::find("sh", &[], "install a shell")?;
        shell
            .args(["-eu", "-c", script])
            .dir(&self.home)
            .env("RECIPIENT", &self.keys.recipient)
            .env("KEY", &self.keys.identity)
            .output(&self.job)
            .await?;
        Ok(since(began))
    }

    async fn shell_backup(&self) -> Result<Took> {
        self.shell("tar -cf - data.bin | zstd -q -3 -T2 | age -r \"$RECIPIENT\" > shell.age").await
    }

    async fn shell_restore(&self) -> Result<Took> {
        let took = self.shell("age -d -i \"$KEY\" shell.age | zstd -q -d > /dev/null").await?;
        self.shell("rm shell.age").await?;
        Ok(took)
    }

    async fn two_compressors(&self) -> Result<Took> {
        let half = self.bytes / 2;
        let behind = half + 1;
        self.shell(&format!(
            "head -c {half} data.bin | zstd -q -3 > /dev/null & tail -c +{behind} data.bin | zstd -q -3 > /dev/null; wait"
        ))
        .await
    }
}

fn since(began: (Instant, f64)) -> Took {
    Took { wall: began.0.elapsed().as_secs_f64(), cpu: cpu_seconds() - began.1 }
}

/// Pieces of text that looks like rows, and pieces of random bytes, by turns; the same in every run.
fn write_data(path: &Path, bytes: u64) -> Result<()> {
    const WORDS: [&str; 8] = ["alpha", "beta", "gamma", "delta", "restore", "backup", "segment", "manifest"];
    let mut file = std::fs::File::create(path).or_io("make data", path)?;
    let mut state = 0x0f0e_0d0c_0b0a_0908_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut piece = Vec::with_capacity(PIECE_BYTES + 200);
    let (mut left, mut row) = (bytes, 0u64);
    while left > 0 {
        let text = ((bytes - left) / PIECE_BYTES as u64).is_multiple_of(2);
        piece.clear();
        while piece.len() < PIECE_BYTES {
            let r = next();
            if text {
                row += 1;
                let word = |shift: u32| WORDS[(r >> shift) as usize % WORDS.len()];
                let (customer, time, cents) =
                    (r % 100_000, 1_700_000_000 + (r >> 24) % 10_000_000, next() % 100_000);
                writeln!(
                    piece,
                    "{row},customer-{customer},{time},{}.{:02},{} {} {}",
                    cents / 100,
                    cents % 100,
                    word(3),
                    word(11),
                    word(17)
                )
                .or_io("make data", path)?;
            } else {
                piece.extend_from_slice(&r.to_le_bytes());
            }
        }
        let now = left.min(PIECE_BYTES as u64);
        piece.truncate(usize::try_from(now).map_err(|e| Error::bug("size data").because(e))?);
        file.write_all(&piece).or_io("make data", path)?;
        left -= now;
    }
    Ok(())
}

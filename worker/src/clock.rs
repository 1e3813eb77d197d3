//! The worker's wall clock. No decision rests on it alone: it only ever makes the worker refuse, wait, or keep for longer.
//!
//! Tests move it: `ROOTWARD_CLOCK_FILE` names a file with the seconds to add, which may change while the worker runs.

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The variable with the file's path.
const VARIABLE: &str = "ROOTWARD_CLOCK_FILE";
/// How old what was read from the file may be.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// By how much wall time may run ahead of the time that has really passed before it is thought to have been set.
const JUMP: Duration = Duration::from_secs(300);

struct Clock {
    began: Instant,
    began_at_ms: i64,
    file: Option<PathBuf>,
    /// What the file said, and when it was read, in milliseconds since `began`.
    offset_ms: AtomicI64,
    read_at_ms: AtomicI64,
}

static CLOCK: OnceLock<Clock> = OnceLock::new();

fn clock() -> &'static Clock {
    CLOCK.get_or_init(|| {
        let mut clock = Clock {
            began: Instant::now(),
            began_at_ms: 0,
            file: std::env::var_os(VARIABLE).map(PathBuf::from),
            offset_ms: AtomicI64::new(0),
            read_at_ms: AtomicI64::new(i64::MIN),
        };
        clock.began_at_ms = system_ms().saturating_add(clock.offset());
        clock
    })
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    system_ms().saturating_add(clock().offset())
}

/// Whether the clock was set forward since the worker began, by more than drift explains. What is thrown away by age must
/// wait then: the age may be wrong.
pub(crate) fn has_jumped() -> bool {
    let clock = clock();
    let passed = i64::try_from((clock.began.elapsed() + JUMP).as_millis()).unwrap_or(i64::MAX);
    now_ms().saturating_sub(clock.began_at_ms) > passed
}

impl Clock {
    fn offset(&self) -> i64 {
        let Some(file) = &self.file else { return 0 };
        let now = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let interval = i64::try_from(READ_INTERVAL.as_millis()).unwrap_or(i64::MAX);
        if now.saturating_sub(self.read_at_ms.load(Ordering::Relaxed)) >= interval {
            let seconds: i64 = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            self.offset_ms.store(seconds.saturating_mul(1000), Ordering::Relaxed);
            self.read_at_ms.store(now, Ordering::Relaxed);
        }
        self.offset_ms.load(Ordering::Relaxed)
    }
}

fn system_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The end of the year 9999, behind which the form below has no words.
pub(crate) const LAST_MS: i64 = 253_402_300_799_000;

/// A moment as PostgreSQL and JSON take it.
pub(crate) fn timestamp(ms: i64) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(u64::try_from(ms.min(LAST_MS)).unwrap_or(0));
    humantime::format_rfc3339_millis(moment).to_string()
}

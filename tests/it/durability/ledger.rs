//! What clients were promised, written down where no server can forget it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rootward_proto::v1::RetryClass;
use tests::{Client, Reader};
use uuid::Uuid;

/// A file of acknowledged requests. Each is flushed before its client goes on.
pub struct Ledger {
    folder: tempfile::TempDir,
    file: Mutex<File>,
    /// How requests ended that were not done, each once.
    pub faults: Mutex<BTreeSet<String>>,
    /// How many there were, but for those that found no room in a queue.
    pub failures: AtomicUsize,
    is_over: AtomicBool,
}

impl Ledger {
    pub fn new() -> Ledger {
        let folder = tempfile::Builder::new().prefix("rw-ledger-").tempdir().expect("a folder");
        let file = Mutex::new(File::create(folder.path().join("ledger")).expect("a file"));
        Ledger { folder, file, faults: Mutex::default(), failures: AtomicUsize::new(0), is_over: AtomicBool::new(false) }
    }

    /// Deposits and openings of accounts by sixteen clients until [`Ledger::stop`]. The owner's name has so many letters.
    pub async fn load(&self, client: &Client, accounts: &[i64], letters: usize) {
        let work = (0..16).map(async |at: usize| {
            let account = accounts[at % accounts.len()].to_string();
            while !self.is_over.load(Ordering::Relaxed) {
                let id = Uuid::now_v7();
                let deposit = [("account_id", account.as_str()), ("amount", "1")];
                self.one(client, "deposit", &deposit, id).await;
                if letters > 0 {
                    let (id, owner) = (Uuid::now_v7(), random_text(letters));
                    let key = (id.as_u128() >> 4 & 0x3fff_ffff_ffff_ffff).to_string();
                    self.one(client, "open_account", &[("account_id", key.as_str()), ("owner", &owner), ("amount", "0")], id).await;
                }
            }
        });
        join_all(work).await;
    }

    async fn one(&self, client: &Client, transaction: &str, given: &[(&str, &str)], id: Uuid) {
        match client.call_within(Duration::from_secs(2), transaction, given, id).await {
            Ok(_) => {
                let mut file = self.file.lock().expect("not poisoned");
                writeln!(file, "{id}").and_then(|()| file.sync_data()).expect("written down");
            }
            Err(fault) => {
                // Nothing that happens to a server is a refusal of what was asked.
                assert_ne!(fault.retry_class(), RetryClass::Refused, "{fault}");
                assert!(!fault.code().is_empty(), "without a name: {fault}");
                self.failures.fetch_add(usize::from(fault.code() != "RW3001"), Ordering::Relaxed);
                self.faults.lock().expect("not poisoned").insert(format!("{} {:?}", fault.code(), fault.retry_class()));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    /// What is written down, read from the file.
    pub fn acknowledged(&self) -> BTreeSet<Uuid> {
        let text = std::fs::read_to_string(self.path()).expect("the ledger");
        text.lines().map(|line| line.parse().expect("an id")).collect()
    }

    /// What was acknowledged and is not there any more: the outcome, or the effect.
    pub async fn missing(&self, reader: &Reader) -> BTreeSet<Uuid> {
        let acknowledged = self.acknowledged();
        let ids =
            async |sql: &str| -> BTreeSet<Uuid> { reader.all(sql, &[]).await.expect("read").iter().map(|(_, row)| row.get(0)).collect() };
        let outcomes = ids("select request_id from rootward.outcome where kind = 'done'").await;
        let effects = ids("select entry_id from entry").await;
        acknowledged.into_iter().filter(|id| !outcomes.contains(id) || !effects.contains(id)).collect()
    }
}

/// Text that no compression makes small.
fn random_text(letters: usize) -> String {
    (0..letters).map(|_| char::from(rand::random_range(b' '..=b'~'))).collect()
}

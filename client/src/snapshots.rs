//! Consistent cuts over all peers, and what is read of them.

use std::time::Duration;

use rootward_proto::{Fault, FaultResult, v1};

use crate::{Answers, Client, retry::Policy};

/// The most rows that [`Snapshot::rows`] collects; more are read page by page.
const MOST_COLLECTED: usize = 1_000_000;

/// How a snapshot is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Does without peers that don't answer; [`Snapshot::facts`] names them. Else they make it fail.
    pub partial: bool,
    /// How long chains that are under way are waited for; the client's time limit if none.
    pub wait: Option<Duration>,
    /// How long it lives after it was used last: a minute if none, ten minutes at most.
    pub lifetime: Option<Duration>,
}

/// One consistent cut over all peers: what every acknowledged transaction left, and no chain half done but those that its facts
/// list. It can be read any number of times, through any router, until it is released or was not used for its lifetime.
///
/// Dropping it releases nothing: it then expires by itself. Until then it takes a session of every database and one of the
/// places that workers have for snapshots (`max_snapshots`), so release it when it is done with.
#[derive(Debug, Clone)]
pub struct Snapshot {
    client: Client,
    facts: v1::TakeSnapshotResponse,
}

/// The rows of a query, collected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// What they consist of.
    pub columns: Vec<v1::Column>,
    /// By peer, in the order of the rows; one entry with an empty name if they are combined.
    pub peers: Vec<(String, Vec<v1::Row>)>,
    /// Peers that are not in the snapshot.
    pub missing_peers: Vec<String>,
}

impl Rows {
    /// All rows, one peer after the other.
    pub fn all(&self) -> impl Iterator<Item = &v1::Row> {
        self.peers.iter().flat_map(|(_, rows)| rows)
    }

    fn add(&mut self, page: v1::QuerySnapshotResponse) {
        if self.columns.is_empty() {
            self.columns = page.columns;
        }
        self.missing_peers.extend(page.missing_peers);
        match self.peers.iter_mut().find(|(peer, _)| *peer == page.peer) {
            Some((_, rows)) => rows.extend(page.rows),
            None => self.peers.push((page.peer, page.rows)),
        }
    }
}

impl Snapshot {
    /// The id by which any router finds it.
    pub fn id(&self) -> &str {
        &self.facts.snapshot_id
    }

    /// When and how it was taken, and which chains were in flight.
    pub fn facts(&self) -> &v1::TakeSnapshotResponse {
        &self.facts
    }

    /// Runs one SQL statement that only reads on every peer, and gives the result over all of them page by page. A page that is
    /// not asked for waits at the peers, so that any number of rows takes little memory.
    ///
    /// Cancel safety: dropping the answers ends the query.
    ///
    /// # Errors
    /// RW5024 if the snapshot is gone, RW5025 if the statement is refused, RW2020 to RW2025 if the results of the peers can't be
    /// put together; [`Snapshot::rows_by_peer`] gives them by themselves.
    pub async fn query(&self, sql: &str) -> FaultResult<Answers<v1::QuerySnapshotResponse>> {
        let request = v1::QuerySnapshotRequest { snapshot_id: self.id().to_owned(), sql: sql.to_owned(), ..Default::default() };
        self.client.query_snapshot(request).await
    }

    /// [`Snapshot::query`] to its end.
    ///
    /// # Errors
    /// As [`Snapshot::query`] and [`Answers::next`]; RW5027 if there are more than a million rows.
    pub async fn rows(&self, sql: &str) -> FaultResult<Rows> {
        collected(self.query(sql).await?).await
    }

    /// The rows of each peer by themselves, whatever the statement is, to the end.
    ///
    /// # Errors
    /// As [`Snapshot::rows`], but that nothing is combined.
    pub async fn rows_by_peer(&self, sql: &str) -> FaultResult<Rows> {
        let (snapshot_id, sql) = (self.id().to_owned(), sql.to_owned());
        let request = v1::QuerySnapshotRequest { snapshot_id, sql, per_peer: true, ..Default::default() };
        collected(self.client.query_snapshot(request).await?).await
    }

    /// Lets go of it.
    ///
    /// # Errors
    /// As [`Client::release_snapshot`].
    pub async fn release(self) -> FaultResult<()> {
        self.client.release_snapshot(self.id()).await
    }
}

impl Client {
    /// Takes one consistent cut over all peers. New chains are held while those under way end, and all lanes for some milliseconds.
    ///
    /// Cancel safety: dropping the future holds nothing up; a snapshot that is taken all the same expires by itself.
    ///
    /// # Errors
    /// RW5020 if a peer does not answer, RW5021 if chains don't end in time, RW5022 if it could have been torn, RW5023 if there
    /// are too many already. No snapshot was taken then, and nothing is held any more.
    pub async fn take_snapshot(&self, options: SnapshotOptions) -> FaultResult<Snapshot> {
        let request = v1::TakeSnapshotRequest {
            partial: options.partial,
            wait_ms: options.wait.map(millis).unwrap_or_default(),
            lifetime_ms: options.lifetime.map(millis).unwrap_or_default(),
        };
        // The answer comes a little after the chains were waited for.
        let client = self.clone().with_deadline(self.deadline().max(options.wait.unwrap_or_default() + Duration::from_secs(5)));
        let facts =
            client.send(request, Policy::SNAPSHOT, |mut router, request| async move { router.take_snapshot(request).await }).await?;
        Ok(Snapshot { client: self.clone(), facts })
    }

    /// Runs a statement at a snapshot that this or another client took.
    ///
    /// # Errors
    /// As [`Snapshot::query`].
    pub async fn query_snapshot(&self, request: v1::QuerySnapshotRequest) -> FaultResult<Answers<v1::QuerySnapshotResponse>> {
        self.send(request, Policy::SNAPSHOT, |mut router, request| async move { router.query_snapshot(request).await }).await.map(Answers)
    }

    /// Lets go of a snapshot; one that is gone already is no error.
    ///
    /// # Errors
    /// RW5026 if the id is none. A peer that doesn't answer lets go when its part expires.
    pub async fn release_snapshot(&self, id: &str) -> FaultResult<()> {
        let request = v1::ReleaseSnapshotRequest { snapshot_id: id.to_owned() };
        self.read(request, |mut router, request| async move { router.release_snapshot(request).await }).await.map(|_| ())
    }
}

async fn collected(mut pages: Answers<v1::QuerySnapshotResponse>) -> FaultResult<Rows> {
    let mut rows = Rows::default();
    let mut count = 0;
    while let Some(page) = pages.next().await? {
        count += page.rows.len();
        if count > MOST_COLLECTED {
            let message = format!("the query gave more than {MOST_COLLECTED} rows");
            return Err(Fault::refused("RW5027", message, "read them page by page with `Snapshot::query`"));
        }
        rows.add(page);
    }
    Ok(rows)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

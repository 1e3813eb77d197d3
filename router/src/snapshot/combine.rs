//! Joins the streams of the peers into one answer, as it was judged that they can be. A stream is read when its rows are wanted, so
//! that of each peer one page is in memory.

use std::collections::VecDeque;

use futures_util::stream;
use prost::Message as _;
use rootward_proto::{Fault, FaultResult, v1};
use rootward_schema::Gather;
use tonic::Status;

use super::read::{OpenedRows, PeerRows};
use crate::{
    chains::BoxStream,
    gather::{Merge, Next, Order, Totals},
};

/// How large a page is at least before it is sent; a row more, at most.
const PAGE_BYTES: usize = 256 << 10;
const PAGE_ROWS: usize = 4_096;

/// The rows of all peers as one answer.
///
/// # Errors
/// RW2023 and RW2025 if values of these types can't be put together, RW2006 if the peers' columns differ, or a peer's.
pub(super) async fn combine(gather: Gather, opened: OpenedRows) -> FaultResult<BoxStream<v1::QuerySnapshotResponse>> {
    let columns = columns(&opened.peers)?;
    let mut head = v1::QuerySnapshotResponse { columns, missing_peers: opened.missing_peers, ..v1::QuerySnapshotResponse::default() };
    let (order, limit) = match gather {
        Gather::OnePeer => {
            head.peer = opened.peers.first().map(|rows| rows.peer.clone()).unwrap_or_default();
            (None, None)
        }
        Gather::Rows { order, limit } if order.is_empty() => (None, limit),
        Gather::Rows { order, limit } => (Some(Order::new(&order, &head.columns)?), limit),
        Gather::Totals(totals) => {
            let mut sum = Totals::new(&totals, &head.columns)?;
            for peer in opened.peers {
                let mut rows = Rows::new(peer);
                while let Some(page) = rows.page().await.map_err(|status| Fault::from_status(&status))? {
                    page.iter().try_for_each(|row| sum.add(row))?;
                }
            }
            head.rows = vec![sum.row()?];
            return Ok(Box::pin(stream::iter([Ok(head)])));
        }
    };
    let peers: Vec<Rows> = opened.peers.into_iter().map(Rows::new).collect();
    let source = match order {
        Some(order) => Source::Merged { merge: Merge::new(order, peers.len()), peers },
        None => Source::InTurn(peers.into()),
    };
    let answer = Answer { head: Some(head), source, left: limit.unwrap_or(u64::MAX) };
    Ok(Box::pin(stream::try_unfold(answer, |mut answer| async move { Ok(answer.page().await?.map(|page| (page, answer))) })))
}

/// What all peers' rows consist of.
fn columns(peers: &[PeerRows]) -> FaultResult<Vec<v1::Column>> {
    let Some(first) = peers.first() else { return Ok(Vec::new()) };
    match peers.iter().find(|peer| peer.first.columns != first.first.columns) {
        None => Ok(first.first.columns.clone()),
        Some(other) => Err(Fault::retry(
            "RW2006",
            format!("peers {} and {} answer with different columns", first.peer, other.peer),
            "a schema version has not reached every peer, see `rootward status`; or read the rows of each peer with --per-peer",
        )),
    }
}

/// One peer's rows, page by page.
struct Rows {
    first: Option<Vec<v1::Row>>,
    rest: PeerRows,
}

impl Rows {
    fn new(mut peer: PeerRows) -> Rows {
        Rows { first: Some(std::mem::take(&mut peer.first.rows)), rest: peer }
    }

    async fn page(&mut self) -> Result<Option<Vec<v1::Row>>, Status> {
        match self.first.take() {
            Some(rows) => Ok(Some(rows)),
            None => Ok(self.rest.next().await?.map(|page| page.rows)),
        }
    }
}

/// An answer that is under way.
struct Answer {
    /// What the first page has besides rows; none once it was sent.
    head: Option<v1::QuerySnapshotResponse>,
    source: Source,
    /// How many rows may still come.
    left: u64,
}

enum Source {
    /// One peer after the other.
    InTurn(VecDeque<Rows>),
    Merged {
        merge: Merge,
        peers: Vec<Rows>,
    },
}

impl Answer {
    /// The next page; none at the end, and then nothing more is asked for.
    async fn page(&mut self) -> Result<Option<v1::QuerySnapshotResponse>, Status> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < PAGE_BYTES && rows.len() < PAGE_ROWS && self.left > 0 {
            let Some(found) = self.source.rows(rows.is_empty()).await? else { break };
            for row in found.into_iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
                bytes += row.encoded_len();
                self.left -= 1;
                rows.push(row);
            }
        }
        let is_over = rows.is_empty();
        Ok(match self.head.take() {
            Some(head) => Some(v1::QuerySnapshotResponse { rows, ..head }),
            None if is_over => None,
            None => Some(v1::QuerySnapshotResponse { rows, ..v1::QuerySnapshotResponse::default() }),
        })
    }
}

impl Source {
    /// The rows that come next: a peer's page, or one row of a merge. None if there are no more, or if they would have to be waited
    /// for and that is not wanted.
    async fn rows(&mut self, may_wait: bool) -> Result<Option<Vec<v1::Row>>, Status> {
        match self {
            Source::InTurn(peers) => {
                // What a peer sent is passed on as it came.
                while may_wait && let Some(peer) = peers.front_mut() {
                    match peer.page().await? {
                        Some(rows) if rows.is_empty() => {}
                        Some(rows) => return Ok(Some(rows)),
                        None => drop(peers.pop_front()),
                    }
                }
                Ok(None)
            }
            Source::Merged { merge, peers } => loop {
                match merge.next() {
                    Next::Row(row) => return Ok(Some(vec![row])),
                    Next::Over => return Ok(None),
                    Next::Wants(_) if !may_wait => return Ok(None),
                    Next::Wants(at) => match peers[at].page().await? {
                        Some(rows) => merge.add(at, rows).map_err(Fault::into_status)?,
                        None => merge.end(at),
                    },
                }
            },
        }
    }
}

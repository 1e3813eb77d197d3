//! `rootward peer list`, `rootward partition …` and `rootward status`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use rootward_client::{Fault, v1};
use serde_json::json;

use super::{Context, exit, fail, partition, partition_owners};
use crate::output;

/// How many characters of ranges are shown in a list of all peers.
const SHORT: usize = 60;

/// The peers of the cluster.
#[derive(Debug, Args)]
pub(crate) struct Peer {
    #[command(subcommand)]
    verb: PeerVerb,
}

#[derive(Debug, Subcommand)]
enum PeerVerb {
    /// List the peers and how they are.
    #[command(after_help = "Example:\n  rootward peer list --from p1 -o json")]
    List {
        /// The peer that distances are from; the hub if none is named.
        #[arg(long, value_name = "ID")]
        from: Option<String>,
    },
    /// Set up a new peer's database, with the tables and the reference data of the cluster. It gets partitions by `rootward rebalance`.
    #[command(after_help = "Example:\n  rootward peer add p2 schema/examples/bank --cluster docs/samples/cluster.toml")]
    Add(super::peer_add::Add),
    /// Give a peer no partitions any more; `rootward rebalance --run` takes away those that it has.
    #[command(after_help = "Example:\n  rootward peer drain p3")]
    Drain {
        /// The peer's id.
        id: String,
        /// It gets partitions again.
        #[arg(long)]
        undo: bool,
    },
    /// Forget a peer that owns nothing any more.
    #[command(after_help = "Example:\n  rootward peer remove p3")]
    Remove {
        /// The peer's id.
        id: String,
    },
}

/// Give every peer its share of the partitions, by capacity; drained peers get none. As few partitions move as that needs.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward rebalance --plan")]
pub(crate) struct Rebalance {
    #[command(flatten)]
    how: RebalanceHow,
    /// Why, for the list of moves.
    #[arg(long, default_value = "")]
    reason: String,
    /// With --run: don't follow the moves; they go on by themselves.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RebalanceHow {
    /// Only say what would be moved.
    #[arg(long)]
    plan: bool,
    /// Move it.
    #[arg(long)]
    run: bool,
}

/// The partitions of the hash space.
#[derive(Debug, Args)]
pub(crate) struct Partition {
    #[command(subcommand)]
    verb: PartitionVerb,
}

#[derive(Debug, Subcommand)]
enum PartitionVerb {
    /// List which peer owns which partitions.
    #[command(after_help = "Example:\n  rootward partition list --peer p1")]
    List {
        /// Only this peer's.
        #[arg(long, value_name = "ID")]
        peer: Option<String>,
        /// One line for each partition, the largest or busiest first. By size or rows, every row is counted, so it takes as long as the data
        /// are large; by rate, partitions are watched for two seconds.
        #[arg(long, value_enum)]
        by: Option<partition::By>,
        /// With --by, how many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Move partitions to another peer while they are in use; follows the move until its end.
    #[command(after_help = "Example:\n  rootward partition move 17 40-43 --to p2 --dry-run")]
    Move(partition::Move),
    /// List moves of partitions that are under way.
    #[command(after_help = "Example:\n  rootward partition moves --all -o json")]
    Moves {
        /// Those that have ended too.
        #[arg(long)]
        all: bool,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Give a move up: everything is undone, and the source stays the owner. Possible until the partitions have changed their owner.
    #[command(after_help = "Example:\n  rootward partition cancel 0198f3a0-0000-7000-8000-000000000001")]
    Cancel {
        /// The move's id.
        id: String,
    },
    /// Go on with a move in stage `differing`: what the source had is taken away. See docs/moving.md before.
    #[command(after_help = "Example:\n  rootward partition accept 0198f3a0-0000-7000-8000-000000000001")]
    Accept {
        /// The move's id.
        id: String,
    },
}

/// Runs the verb.
pub(crate) async fn peers(context: &Context, peer: Peer) -> ExitCode {
    let from = match peer.verb {
        PeerVerb::List { from } => from,
        PeerVerb::Add(add) => return super::peer_add::run(context, add).await,
        PeerVerb::Drain { id, undo } => {
            return change(context, &id, if undo { v1::PeerChange::Activate } else { v1::PeerChange::Drain }).await;
        }
        PeerVerb::Remove { id } => return change(context, &id, v1::PeerChange::Remove).await,
    };
    match context.client.peers().await {
        Ok(response) => match from.as_ref().filter(|from| !response.peers.iter().any(|peer| peer.id == **from)) {
            Some(unknown) => {
                let ids: Vec<&str> = response.peers.iter().map(|peer| peer.id.as_str()).collect();
                fail(&no_peer(unknown, &ids), context.format)
            }
            None => list(context, &response, from.as_deref()),
        },
        Err(fault) => fail(&fault, context.format),
    }
}

pub(super) fn no_peer(id: &str, known: &[&str]) -> Fault {
    let (message, help) = (format!("there is no peer `{id}`"), format!("there are {}", known.join(", ")));
    Fault::new("RW5007", v1::RetryClass::NotFound, message, help)
}

/// How far a peer is from the one that distances are from, in kilometres.
fn distance_km(peer: &v1::Peer, all: &[v1::Peer], from: Option<&str>) -> Option<f64> {
    let here = all.iter().find(|other| from.map_or(other.is_hub, |from| other.id == from))?;
    Some(rootward_schema::kilometres((here.latitude?, here.longitude?), (peer.latitude?, peer.longitude?)))
}

async fn change(context: &Context, id: &str, change: v1::PeerChange) -> ExitCode {
    match context.client.change_peer(id, change).await {
        Ok(response) => {
            if context.format.is_json() {
                output::print(&json!({"id": id, "state": response.state}).to_string());
            } else {
                output::print(&format!("{id} is {}", response.state));
            }
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault, context.format),
    }
}

/// Gives every peer its share.
pub(crate) async fn rebalance(context: &Context, what: Rebalance) -> ExitCode {
    let request = v1::RebalanceRequest { dry_run: what.how.plan, reason: what.reason, request_id: String::new() };
    match context.client.rebalance(request).await {
        Ok(begun) => partition::finish(context, begun, what.how.plan, what.no_wait).await,
        Err(fault) => fail(&fault, context.format),
    }
}

fn list(context: &Context, response: &v1::ListPeersResponse, from: Option<&str>) -> ExitCode {
    if context.format.is_json() {
        output::print_list(
            context.format,
            "peers",
            response.peers.iter().map(|peer| peer_json(peer, response, from)).collect(),
            json!({"map_version": response.map_version}),
        );
    } else {
        let headings = [
            "PEER",
            "STATE",
            "PARTITIONS",
            "TERM",
            "COMMITTED",
            "REFUSED",
            "SET-WISE",
            "QUEUED",
            "QUEUE TIME",
            "BATCH",
            "CHAINS",
            "REFERENCE",
            "ROUTE",
            "SCHEMA",
            "MEMORY",
            "DISTANCE",
            "ROUND TRIP",
            "WORKER",
        ];
        let rows: Vec<Vec<String>> = response.peers.iter().map(|peer| peer_row(peer, response, from)).collect();
        let promoted = response.peers.iter().filter_map(|peer| Some(promotion_text(&peer.id, peer.status.as_ref()?.promotion.as_ref()?)));
        let table = output::table(&headings, &rows);
        let lines = std::iter::once(table).chain(promoted).chain([format!("map version {}", response.map_version)]);
        output::print(&lines.collect::<Vec<_>>().join("\n"));
    }
    code_of(response)
}

/// What became of the last transactions when a standby was promoted.
fn promotion_text(id: &str, promotion: &v1::Promotion) -> String {
    let found = match promotion.checked {
        None => "whether something acknowledged is lost is not known (RW5032)".to_owned(),
        Some(checked) if promotion.lost == 0 => format!("it has all of the last {checked} transactions that were acknowledged"),
        Some(checked) => format!(
            "{} of the last {checked} transactions that were acknowledged are lost (RW5031), such as {}",
            promotion.lost,
            promotion.examples.join(", ")
        ),
    };
    format!("{id}: a standby was promoted (timeline {}): {found}", promotion.timeline)
}

fn promotion_json(promotion: &v1::Promotion) -> serde_json::Value {
    json!({
        "timeline": promotion.timeline, "at_ms": promotion.at_ms, "checked": promotion.checked, "lost": promotion.lost,
        "examples": promotion.examples,
    })
}

fn code_of(response: &v1::ListPeersResponse) -> ExitCode {
    let is_whole = response.peers.iter().all(|peer| peer.status.as_ref().is_some_and(|status| status.state == "serving"));
    if is_whole { ExitCode::SUCCESS } else { ExitCode::from(exit::PARTIAL) }
}

/// The version of the reference data on the hub, where it is written; none if its worker doesn't answer.
fn newest_reference(response: &v1::ListPeersResponse) -> Option<i64> {
    response.peers.iter().find(|peer| peer.is_hub)?.status.as_ref().map(|status| status.reference_version)
}

/// How many versions a peer's copy is behind. What came to it while the hub was asked is no lag.
fn lag(status: &v1::PeerStatus, newest: Option<i64>) -> Option<i64> {
    newest.map(|newest| (newest - status.reference_version).max(0))
}

/// By which node reference data come; a relay passes them on.
fn route_text(peer: &v1::Peer, status: &v1::PeerStatus) -> String {
    let from = if status.reference_source.is_empty() { "-" } else { &status.reference_source };
    if peer.is_relay { format!("{from}, relay") } else { from.to_owned() }
}

fn reference_text(status: &v1::PeerStatus, newest: Option<i64>) -> String {
    match lag(status, newest) {
        Some(lag) if lag > 0 => format!("{} ({lag} behind)", status.reference_version),
        _ => status.reference_version.to_string(),
    }
}

fn peer_row(peer: &v1::Peer, all: &v1::ListPeersResponse, from: Option<&str>) -> Vec<String> {
    let newest = newest_reference(all);
    let distance = distance_km(peer, &all.peers, from).map_or_else(|| "-".to_owned(), |distance| format!("{distance:.1} km"));
    let id = if peer.is_hub { format!("{} (catalog)", peer.id) } else { peer.id.clone() };
    let Some(status) = &peer.status else {
        let mut row = vec![id, "no answer".to_owned(), peer.partitions.to_string()];
        row.extend(std::iter::repeat_n("-".to_owned(), 12));
        row.extend([distance, "-".to_owned()]);
        row.push(peer.worker_address.clone());
        return row;
    };
    vec![
        id,
        status.state.clone(),
        peer.partitions.to_string(),
        status.term.to_string(),
        status.committed.to_string(),
        status.refused.to_string(),
        status.set_wise.to_string(),
        status.queued.to_string(),
        queue_us(status).map_or_else(|| "-".to_owned(), |mean| output::duration(mean as u64)),
        batch_size(status).map_or_else(|| "-".to_owned(), |mean| format!("{mean:.1}")),
        status.open_chains.to_string(),
        reference_text(status, newest),
        route_text(peer, status),
        status.schema_version.to_string(),
        format!("{} MB", status.resident_bytes / 1_000_000),
        distance,
        output::duration(peer.round_trip_us),
        peer.worker_address.clone(),
    ]
}

/// How long a unit waited for its batch, the mean since the worker began, in whole microseconds; none if there was none.
fn queue_us(status: &v1::PeerStatus) -> Option<f64> {
    (status.waited > 0).then(|| (status.waited_us as f64 / status.waited as f64).round())
}

/// How many units a batch had, the mean since the worker began, to a tenth.
fn batch_size(status: &v1::PeerStatus) -> Option<f64> {
    (status.batches > 0).then(|| (status.batch_units as f64 / status.batches as f64 * 10.0).round() / 10.0)
}

fn peer_json(peer: &v1::Peer, all: &v1::ListPeersResponse, from: Option<&str>) -> serde_json::Value {
    let newest = newest_reference(all);
    let status = peer.status.as_ref().map(|status| {
        json!({
            "state": status.state, "term": status.term, "lanes": status.lanes, "committed": status.committed, "refused": status.refused,
            "batches": status.batches, "set_wise": status.set_wise, "queued": status.queued,
            "queue_us": queue_us(status), "batch_units": batch_size(status), "open_chains": status.open_chains,
            "reference_version": status.reference_version, "reference_lag": lag(status, newest),
            "reference_source": (!status.reference_source.is_empty()).then_some(&status.reference_source), "schema_version": status.schema_version, "map_version": status.map_version,
            "postgres_version": status.postgres_version, "resident_bytes": status.resident_bytes,
            "promotion": status.promotion.as_ref().map(promotion_json),
        })
    });
    json!({
        "id": peer.id, "worker_address": peer.worker_address, "capacity": peer.capacity, "region": peer.region, "state": peer.state,
        "is_hub": peer.is_hub, "is_relay": peer.is_relay, "partitions": peer.partitions, "status": status,
        "latitude": peer.latitude, "longitude": peer.longitude, "distance_km": distance_km(peer, &all.peers, from),
        "round_trip_us": (peer.round_trip_us > 0).then_some(peer.round_trip_us),
    })
}

/// Runs the verb.
pub(crate) async fn partitions(context: &Context, partition: Partition) -> ExitCode {
    match partition.verb {
        PartitionVerb::List { peer, by: None, .. } => partition_owners::list(context, peer).await,
        PartitionVerb::List { peer, by: Some(by), limit } => partition::sizes(context, peer.as_deref(), by, limit).await,
        PartitionVerb::Move(what) => partition::begin(context, what).await,
        PartitionVerb::Moves { all, limit } => partition::list(context, all, limit).await,
        PartitionVerb::Cancel { id } => partition::cancel(context, &id).await,
        PartitionVerb::Accept { id } => partition::accept(context, &id).await,
    }
}

/// The first ranges: all of them fill screens, since partitions are spread by hash.
pub(super) fn shortened(ranges: &str) -> String {
    if ranges.len() <= SHORT {
        return ranges.to_owned();
    }
    let kept = ranges.get(..SHORT).and_then(|start| start.rfind(',')).and_then(|at| ranges.get(..at)).unwrap_or_default();
    format!("{kept}, … (all of them with --peer)")
}

/// `0-3,7,9-10`.
pub(super) fn ranges(sorted: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in sorted {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *number => *end = *number,
            _ => parts.push((*number, *number)),
        }
    }
    parts.iter().map(|(start, end)| if start == end { start.to_string() } else { format!("{start}-{end}") }).collect::<Vec<_>>().join(",")
}

/// The cluster at a glance.
pub(crate) async fn status(context: &Context) -> ExitCode {
    let asked = async {
        let peers = context.client.peers().await?;
        let schema = context.client.schema().await?;
        let waiting = v1::ChainFilter { statuses: vec!["parked".to_owned(), "stuck".to_owned()], ..v1::ChainFilter::default() };
        let chains = context.client.list_chains(waiting, 1).await?;
        Ok::<_, Fault>((peers, schema, chains))
    };
    let (peers, schema, chains) = match asked.await {
        Ok(answers) => answers,
        Err(fault) => return fail(&fault, context.format),
    };
    if context.format.is_json() {
        output::print(&status_json(&peers, &schema, &chains).to_string());
        return code_of(&peers);
    }
    output::print(&format!(
        "schema `{}` version {}   {} chains running, {} wait for a person",
        schema.name, schema.version, chains.running, chains.matched
    ));
    list(context, &peers, None)
}

fn status_json(peers: &v1::ListPeersResponse, schema: &v1::GetSchemaResponse, chains: &v1::ListChainsResponse) -> serde_json::Value {
    json!({
        "schema": {"name": schema.name, "version": schema.version},
        "chains": {"running": chains.running, "waiting": chains.matched, "missing_peers": chains.missing_peers},
        "map_version": peers.map_version,
        "peers": peers.peers.iter().map(|peer| peer_json(peer, peers, None)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_listed_as_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        assert_eq!(ranges(&[]), "");
        assert_eq!(shortened("0-3,7"), "0-3,7");
        let many: Vec<usize> = (0..100).map(|number| number * 2).collect();
        let text = shortened(&ranges(&many));
        assert!(text.starts_with("0,2,4,") && text.contains(", … (all") && text.chars().count() < 100, "{text}");
    }

    fn peers() -> v1::ListPeersResponse {
        let status = v1::PeerStatus {
            state: "serving".into(),
            open_chains: 2,
            resident_bytes: 21_000_000,
            batches: 3,
            batch_units: 7,
            set_wise: 5,
            waited: 7,
            waited_us: 10_000,
            ..v1::PeerStatus::default()
        };
        let peer = |id: &str, status| v1::Peer { id: id.into(), partitions: 512, status, ..v1::Peer::default() };
        v1::ListPeersResponse { peers: vec![peer("p1", Some(status)), peer("p2", None)], map_version: 7 }
    }

    #[test]
    fn a_peer_that_does_not_answer_has_a_row_as_wide_as_the_others() {
        let rows: Vec<Vec<String>> = peers().peers.iter().map(|peer| peer_row(peer, &peers(), None)).collect();
        assert_eq!(rows[0].len(), rows[1].len());
        assert_eq!((rows[0][14].as_str(), rows[1][1].as_str()), ("21 MB", "no answer"));
        assert_eq!((rows[0][6].as_str(), rows[0][8].as_str(), rows[0][9].as_str()), ("5", "1.4 ms", "2.3"));
    }

    #[test]
    fn a_copy_that_is_behind_the_hub_says_by_how_much() {
        let status = v1::PeerStatus { reference_version: 7, ..v1::PeerStatus::default() };
        assert_eq!(reference_text(&status, Some(9)), "7 (2 behind)");
        assert_eq!(reference_text(&status, Some(7)), "7");
        assert_eq!((reference_text(&status, Some(6)), lag(&status, Some(6))), ("7".to_owned(), Some(0)));
        assert_eq!((reference_text(&status, None), lag(&status, None)), ("7".to_owned(), None));
    }

    #[test]
    fn the_status_for_programs_keeps_its_form() {
        let schema = v1::GetSchemaResponse { name: "bank".into(), version: 3, ..v1::GetSchemaResponse::default() };
        let chains = v1::ListChainsResponse { running: 4, matched: 1, ..v1::ListChainsResponse::default() };
        let wanted = concat!(
            r#"{"chains":{"missing_peers":[],"running":4,"waiting":1},"map_version":7,"peers":[{"capacity":0,"distance_km":null,"id":"p1","is_hub":false,"is_relay":false,"#,
            r#""latitude":null,"longitude":null,"partitions":512,"region":"","round_trip_us":null,"state":"","status":{"batch_units":2.3,"batches":3,"committed":0,"lanes":0,"map_version":0,"open_chains":2,"#,
            r#""postgres_version":"","promotion":null,"queue_us":1429.0,"queued":0,"reference_lag":null,"reference_source":null,"reference_version":0,"refused":0,"resident_bytes":21000000,"schema_version":0,"#,
            r#""set_wise":5,"state":"serving","term":0},"worker_address":""},{"capacity":0,"distance_km":null,"id":"p2","is_hub":false,"is_relay":false,"latitude":null,"longitude":null,"partitions":512,"region":"","#,
            r#""round_trip_us":null,"state":"","status":null,"worker_address":""}],"schema":{"name":"bank","version":3}}"#
        );
        assert_eq!(status_json(&peers(), &schema, &chains).to_string(), wanted);
    }
}

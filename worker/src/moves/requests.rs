//! What people and the router ask of moves: to begin, list, cancel and accept them.

use std::collections::{BTreeMap, BTreeSet};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass},
};
use uuid::Uuid;

use super::{
    mover::{Mover, hub},
    state::{Event, Stage},
    store::{self, Busy, NewMove},
};

/// A partition more than anybody has.
const MOST_PARTITIONS: usize = 1 << 20;
/// The most moves that one list returns.
const MOST_LISTED: u32 = 10_000;

pub(super) fn refused(message: String, help: &str) -> Fault {
    Fault::refused("RW5041", message, help)
}

impl Mover {
    /// Begins moves of these partitions, one for each peer that owns some of them.
    ///
    /// # Errors
    /// RW5041 if they can't be moved there; nothing was begun.
    pub(crate) async fn begin(&self, request: v1::MovePartitionsRequest) -> FaultResult<v1::MovePartitionsResponse> {
        let mut partitions = request.partitions;
        partitions.sort_unstable();
        partitions.dedup();
        if partitions.is_empty() || partitions.len() > MOST_PARTITIONS {
            return Err(refused("no partition is named".to_owned(), "name some: `rootward partition list`"));
        }
        let first_id = match request.request_id.as_str() {
            "" => Uuid::now_v7(),
            id => Uuid::parse_str(id).map_err(|_| refused(format!("`{id}` is no UUID"), "leave it out, and one is made"))?,
        };
        if !request.dry_run && !request.request_id.is_empty() {
            // The answer to the same request was lost: by now its partitions may have changed their owner.
            let sources = store::peer_ids(&self.pool).await.map_err(|error| hub(&error))?;
            let ids: Vec<Uuid> = sources.iter().map(|source| id_of(first_id, source)).collect();
            let begun = store::begun(&self.pool, &ids, None).await.map_err(|error| hub(&error))?;
            if !begun.is_empty() {
                let moved: BTreeSet<i32> = begun.iter().flat_map(|one| one.partitions.iter().copied()).collect();
                let already_there = partitions.into_iter().filter(|partition| !moved.contains(partition)).collect();
                return Ok(v1::MovePartitionsResponse { moves: begun.into_iter().map(|one| one.view).collect(), already_there });
            }
        }
        match store::may_take(&self.pool, &request.target).await.map_err(|error| hub(&error))? {
            Some(true) => {}
            Some(false) => {
                return Err(refused(format!("peer `{}` takes no partitions", request.target), "it is the hub, is drained, or was removed"));
            }
            None => {
                let message = format!("there is no peer `{}`", request.target);
                return Err(Fault::new("RW5007", RetryClass::NotFound, message, "see `rootward peer list`"));
            }
        }
        let owners = store::owners(&self.pool, &partitions).await.map_err(|error| hub(&error))?;
        if let Some(unknown) = partitions.iter().find(|partition| !owners.iter().any(|(known, _, _)| known == *partition)) {
            return Err(refused(format!("there is no partition {unknown}"), "see `rootward partition list`"));
        }
        if let Some((partition, region, other)) =
            store::out_of_region(&self.pool, &partitions, &request.target).await.map_err(|error| hub(&error))?
        {
            let other = if other.is_empty() { "no region".to_owned() } else { format!("region `{other}`") };
            let message = format!("partition {partition} belongs to region `{region}`, and peer `{}` to {other}", request.target);
            return Err(Fault::refused("RW5048", message, format!("name a peer of region `{region}`: `rootward peer list -o json`")));
        }
        let mut already_there = Vec::new();
        let mut by_source: BTreeMap<String, (Vec<i32>, Vec<i64>)> = BTreeMap::new();
        for (partition, owner, epoch) in owners {
            if owner == request.target {
                already_there.push(partition);
                continue;
            }
            let of_source = by_source.entry(owner).or_default();
            of_source.0.push(partition);
            of_source.1.push(epoch);
        }
        let moves: Vec<NewMove> = by_source
            .into_iter()
            .map(|(source, (partitions, epochs))| NewMove {
                id: id_of(first_id, &source),
                partitions,
                epochs,
                source,
                target: request.target.clone(),
                reason: request.reason.clone(),
            })
            .collect();
        self.begin_all(moves, request.dry_run, already_there).await
    }

    /// Writes the intent down, or says what would be moved.
    pub(super) async fn begin_all(
        &self,
        moves: Vec<NewMove>,
        is_dry_run: bool,
        already_there: Vec<i32>,
    ) -> FaultResult<v1::MovePartitionsResponse> {
        if is_dry_run {
            let mut sizes: BTreeMap<&str, Vec<v1::PartitionSize>> = BTreeMap::new();
            for new in &moves {
                if !sizes.contains_key(new.source.as_str()) {
                    sizes.insert(&new.source, self.asker.sizes(&new.source).await?);
                }
            }
            let planned = moves.iter().map(|new| planned(new, &sizes[new.source.as_str()])).collect();
            return Ok(v1::MovePartitionsResponse { moves: planned, already_there });
        }
        match store::insert(&self.pool, &moves).await.map_err(|error| hub(&error))? {
            None => {}
            Some(Busy::Moving(partition, other)) => {
                let message = format!("partition {partition} is moved already, by move {other}");
                return Err(refused(message, "wait for its end, or cancel it: `rootward partition moves`"));
            }
            Some(Busy::Applying) => {
                let help = "end `rootward schema apply` first: both ends need the same tables";
                return Err(refused("a schema version is being applied".to_owned(), help));
            }
        }
        self.changed.notify_one();
        let mut begun = Vec::new();
        for new in &moves {
            begun.extend(store::get(&self.pool, new.id).await.map_err(|error| hub(&error))?.map(|one| one.view));
        }
        Ok(v1::MovePartitionsResponse { moves: begun, already_there })
    }

    /// Lists moves.
    ///
    /// # Errors
    /// RW5040 if the one that is named is none.
    pub(crate) async fn list(&self, request: v1::ListMovesRequest) -> FaultResult<v1::ListMovesResponse> {
        let id = if request.id.is_empty() { None } else { Some(move_id(&request.id)?) };
        let limit = if request.limit == 0 { 100 } else { request.limit.min(MOST_LISTED) };
        let moves = store::list(&self.pool, id, request.all, i64::from(limit)).await.map_err(|error| hub(&error))?;
        if let (Some(id), true) = (id, moves.is_empty()) {
            return Err(no_such_move(id));
        }
        Ok(v1::ListMovesResponse { moves: moves.into_iter().map(|one| one.view).collect() })
    }

    /// Gives a move up.
    ///
    /// # Errors
    /// RW5043 if it is too late, RW5040 if there is no such move.
    pub(crate) async fn cancel(&self, id: &str) -> FaultResult<v1::CancelMoveResponse> {
        let id = move_id(id)?;
        loop {
            let one = store::get(&self.pool, id).await.map_err(|error| hub(&error))?.ok_or_else(|| no_such_move(id))?;
            if matches!(one.stage, Stage::Cancelling | Stage::Cancelled) {
                return Ok(v1::CancelMoveResponse { r#move: Some(one.view) });
            }
            let Some(next) = one.stage.next(Event::Cancel) else {
                let message = format!("move {id} is {}: its partitions are peer {}'s already", one.stage.name(), one.target);
                return Err(Fault::refused("RW5043", message, "to have them back, move them back"));
            };
            if store::go_on(&self.pool, id, one.stage, next).await.map_err(|error| hub(&error))? {
                self.changed.notify_one();
            }
        }
    }

    /// Goes on with a move whose sides differed after the switch.
    ///
    /// # Errors
    /// RW5046 if there is nothing to accept, RW5040 if there is no such move.
    pub(crate) async fn accept(&self, id: &str) -> FaultResult<v1::AcceptMoveResponse> {
        let id = move_id(id)?;
        let one = store::get(&self.pool, id).await.map_err(|error| hub(&error))?.ok_or_else(|| no_such_move(id))?;
        let accepted = match one.stage.next(Event::Accept) {
            Some(next) => store::go_on(&self.pool, id, one.stage, next).await.map_err(|error| hub(&error))?,
            None => false,
        };
        if !accepted {
            let message = format!("move {id} is {}: nothing waits for a person", one.stage.name());
            return Err(Fault::refused("RW5046", message, "see `rootward partition moves`"));
        }
        self.changed.notify_one();
        Ok(v1::AcceptMoveResponse { r#move: Some(one.view) })
    }
}

fn planned(new: &NewMove, sizes: &[v1::PartitionSize]) -> v1::Move {
    let of_move = || sizes.iter().filter(|size| new.partitions.contains(&size.partition));
    v1::Move {
        partitions: new.partitions.clone(),
        source: new.source.clone(),
        target: new.target.clone(),
        reason: new.reason.clone(),
        rows_total: of_move().map(|size| size.rows).sum(),
        bytes: of_move().map(|size| size.bytes).sum(),
        ..v1::Move::default()
    }
}

/// The move from this source: the same request has the same ids.
fn id_of(request: Uuid, source: &str) -> Uuid {
    Uuid::new_v5(&request, source.as_bytes())
}

fn move_id(text: &str) -> FaultResult<Uuid> {
    Uuid::parse_str(text).map_err(|_| refused(format!("`{text}` is no move's id"), "`rootward partition moves` shows the ids"))
}

fn no_such_move(id: Uuid) -> Fault {
    Fault::new("RW5040", RetryClass::NotFound, format!("there is no move {id}"), "see `rootward partition moves --all`")
}

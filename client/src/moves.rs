//! Moves of partitions between peers.

use rootward_proto::{FaultResult, v1};

use crate::Client;

impl Client {
    /// Begins to move partitions to another peer, and returns at once: it goes on in the background, and the client's transactions
    /// notice nothing of it. With `dry_run` nothing is begun. Repeated with the same `request_id`, it begins nothing twice.
    ///
    /// # Errors
    /// RW5041 if they can't be moved there, RW5007 if there is no such peer, RW5002 if the hub doesn't answer.
    pub async fn move_partitions(&self, request: v1::MovePartitionsRequest) -> FaultResult<v1::MovePartitionsResponse> {
        let request_id = if request.request_id.is_empty() { uuid::Uuid::now_v7().to_string() } else { request.request_id };
        let request = v1::MovePartitionsRequest { request_id, ..request };
        self.read(request, |mut router, request| async move { router.move_partitions(request).await }).await
    }

    /// Begins the moves after which every peer has its share of the partitions by its capacity, and drained peers none; as few
    /// as that needs. With `dry_run` nothing is begun.
    ///
    /// # Errors
    /// RW5041 while partitions are being moved already, RW5002 if the hub doesn't answer.
    pub async fn rebalance(&self, request: v1::RebalanceRequest) -> FaultResult<v1::MovePartitionsResponse> {
        let request_id = if request.request_id.is_empty() { uuid::Uuid::now_v7().to_string() } else { request.request_id };
        let request = v1::RebalanceRequest { request_id, ..request };
        self.read(request, |mut router, request| async move { router.rebalance(request).await }).await
    }

    /// Drains a peer, takes it back into service, or removes one that owns nothing any more; repeated, it changes nothing.
    ///
    /// # Errors
    /// RW5045 if the peer can't be changed so, RW5007 if there is no such peer.
    pub async fn change_peer(&self, id: &str, change: v1::PeerChange) -> FaultResult<v1::ChangePeerResponse> {
        let request = v1::ChangePeerRequest { id: id.to_owned(), change: change.into() };
        self.read(request, |mut router, request| async move { router.change_peer(request).await }).await
    }

    /// Lists moves, the newest first.
    ///
    /// # Errors
    /// RW5040 if the one that is named is none, RW5002 if the hub doesn't answer.
    pub async fn moves(&self, request: v1::ListMovesRequest) -> FaultResult<v1::ListMovesResponse> {
        self.read(request, |mut router, request| async move { router.list_moves(request).await }).await
    }

    /// What each partition holds. Every row is counted, so it takes as long as the data are large.
    ///
    /// # Errors
    /// If no router answers; peers that don't are named in the answer.
    pub async fn partition_sizes(&self) -> FaultResult<v1::SizePartitionsResponse> {
        self.read(v1::SizePartitionsRequest::default(), |mut router, request| async move { router.size_partitions(request).await }).await
    }

    /// What each partition has committed since the worker of its peer was started; no row is counted.
    ///
    /// # Errors
    /// If no router answers; peers that don't are named in the answer.
    pub async fn partition_loads(&self) -> FaultResult<v1::SizePartitionsResponse> {
        let request = v1::SizePartitionsRequest { only_committed: true };
        self.read(request, |mut router, request| async move { router.size_partitions(request).await }).await
    }

    /// Gives a move up: everything is undone in the background, and the source stays the owner.
    ///
    /// # Errors
    /// RW5043 if the partitions have changed their owner already, RW5040 if there is no such move.
    pub async fn cancel_move(&self, id: &str) -> FaultResult<v1::CancelMoveResponse> {
        let request = v1::CancelMoveRequest { id: id.to_owned() };
        self.read(request, |mut router, request| async move { router.cancel_move(request).await }).await
    }

    /// Goes on with a move whose sides differed after the switch, in stage `differing`: what the source had is taken away.
    ///
    /// # Errors
    /// RW5046 if there is nothing to accept, RW5040 if there is no such move.
    pub async fn accept_move(&self, id: &str) -> FaultResult<v1::AcceptMoveResponse> {
        let request = v1::AcceptMoveRequest { id: id.to_owned() };
        self.read(request, |mut router, request| async move { router.accept_move(request).await }).await
    }
}

//! The client against a router that answers by a script.

#![allow(clippy::disallowed_methods)] // connections of tests end with the test

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rootward_client::{
    Arguments, Client, Fault, FaultResult, SnapshotOptions,
    v1::{
        self, RetryClass, call_envelope, call_reply,
        rootward_server::{Rootward, RootwardServer},
    },
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use uuid::Uuid;

/// What the router heard: request id, time of issue, milliseconds left.
type Heard = (String, i64, u64);

#[derive(Clone, Default)]
struct Script {
    faults: Arc<Mutex<VecDeque<Fault>>>,
    chain_statuses: Arc<Mutex<VecDeque<&'static str>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// Messages of streams.
    messages: Arc<AtomicUsize>,
}

impl Script {
    fn failing(faults: impl IntoIterator<Item = Fault>) -> Script {
        Script { faults: Arc::new(Mutex::new(faults.into_iter().collect())), ..Script::default() }
    }

    /// Serves on a free port until the test ends.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Server::builder().add_service(RootwardServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        address
    }

    fn hear(&self, id: &str, issued_at_ms: i64, time_left_ms: u64) -> FaultResult<()> {
        self.heard.lock().expect("no panic").push((id.to_owned(), issued_at_ms, time_left_ms));
        match self.faults.lock().expect("no panic").pop_front() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no panic").clone()
    }
}

impl Script {
    fn answer_call(&self, request: v1::CallRequest, time_left_ms: u64) -> FaultResult<v1::CallResponse> {
        self.hear(&request.request_id, request.issued_at_ms, time_left_ms)?;
        Ok(v1::CallResponse { request_id: request.request_id, ..v1::CallResponse::default() })
    }

    fn answer_chain(&self, request: v1::StartChainRequest, time_left_ms: u64) -> FaultResult<v1::StartChainResponse> {
        self.hear(&request.chain_id, request.issued_at_ms, time_left_ms)?;
        let status = self.chain_statuses.lock().expect("no panic").pop_front().unwrap_or("completed");
        let is_first = self.heard().len() == 1;
        let chain = v1::Chain { id: request.chain_id, status: status.to_owned(), ..v1::Chain::default() };
        Ok(v1::StartChainResponse { chain: Some(chain), from_stored_outcome: !is_first })
    }

    fn answer<M, T: Default>(&self, _: Request<M>) -> Result<T, Status> {
        self.hear("", 0, 0).map_err(Fault::into_status)?;
        Ok(T::default())
    }

    fn answer_envelope(&self, envelope: v1::CallEnvelope) -> v1::CallReply {
        let answer = match envelope.request.expect("a request") {
            call_envelope::Request::Call(call) => self.answer_call(call, envelope.time_left_ms).map(call_reply::Result::Called),
            call_envelope::Request::StartChain(start) => {
                self.answer_chain(*start, envelope.time_left_ms).map(Box::new).map(call_reply::Result::Started)
            }
        };
        let result = answer.unwrap_or_else(|fault| call_reply::Result::Failure(fault.into_wire()));
        v1::CallReply { correlation: envelope.correlation, result: Some(result) }
    }
}

macro_rules! service {
    ($($name:ident($request:ident) -> $response:ident by $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Rootward for Script {
            type ExchangeStream = Pin<Box<dyn Stream<Item = Result<v1::ExchangeCallsResponse, Status>> + Send>>;
            type WatchChainStream = tokio_stream::Once<Result<v1::WatchChainResponse, Status>>;
            type ChangeChainsStream = tokio_stream::Once<Result<v1::ChangeChainsResponse, Status>>;
            type QuerySnapshotStream = tokio_stream::Once<Result<v1::QuerySnapshotResponse, Status>>;
            type SubscribeStream = tokio_stream::Once<Result<v1::SubscribeResponse, Status>>;

            async fn exchange(&self, request: Request<Streaming<v1::ExchangeCallsRequest>>) -> Result<Response<Self::ExchangeStream>, Status> {
                let script = self.clone();
                let answers = request.into_inner().map(move |message| {
                    script.messages.fetch_add(1, Ordering::Relaxed);
                    let replies = message?.envelopes.into_iter().map(|envelope| script.answer_envelope(envelope)).collect();
                    Ok(v1::ExchangeCallsResponse { replies })
                });
                Ok(Response::new(Box::pin(answers)))
            }

            async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
                Err(Status::unimplemented("calls go over the stream"))
            }

            async fn start_chain(&self, _: Request<v1::StartChainRequest>) -> Result<Response<v1::StartChainResponse>, Status> {
                Err(Status::unimplemented("chains are started over the stream"))
            }

            async fn watch_chain(&self, request: Request<v1::WatchChainRequest>) -> Result<Response<Self::WatchChainStream>, Status> {
                Ok(Response::new(tokio_stream::once(self.answer(request))))
            }

            async fn change_chains(&self, request: Request<v1::ChangeChainsRequest>) -> Result<Response<Self::ChangeChainsStream>, Status> {
                self.answer(request).map(|answer| Response::new(tokio_stream::once(Ok(answer))))
            }

            async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
                Ok(Response::new(tokio_stream::once(self.answer(request))))
            }

            async fn query_snapshot(&self, request: Request<v1::QuerySnapshotRequest>) -> Result<Response<Self::QuerySnapshotStream>, Status> {
                Ok(Response::new(tokio_stream::once(self.answer(request))))
            }

            $(async fn $name(&self, request: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                self.$answer(request).map(Response::new)
            })*
        }
    };
}

service! {
    query(QueryRequest) -> CallResponse by answer;
    list_staged(ListStagedRequest) -> ListStagedResponse by answer;
    replay_staged(ReplayStagedRequest) -> ReplayStagedResponse by answer;
    drop_staged(DropStagedRequest) -> DropStagedResponse by answer;
    list_journal_heads(ListJournalHeadsRequest) -> ListJournalHeadsResponse by answer;
    verify_journal(VerifyJournalRequest) -> VerifyJournalResponse by answer;
    explain(ExplainRequest) -> ExplainResponse by answer;
    list_chains(ListChainsRequest) -> ListChainsResponse by answer;
    move_partitions(MovePartitionsRequest) -> MovePartitionsResponse by answer;
    rebalance(RebalanceRequest) -> MovePartitionsResponse by answer;
    change_peer(ChangePeerRequest) -> ChangePeerResponse by answer;
    list_moves(ListMovesRequest) -> ListMovesResponse by answer;
    size_partitions(SizePartitionsRequest) -> SizePartitionsResponse by answer;
    cancel_move(CancelMoveRequest) -> CancelMoveResponse by answer;
    accept_move(AcceptMoveRequest) -> AcceptMoveResponse by answer;
    get_chain(GetChainRequest) -> GetChainResponse by answer;
    count_chains(CountChainsRequest) -> CountChainsResponse by answer;
    signal_chain(SignalChainRequest) -> SignalChainResponse by answer;
    fork_chain(ForkChainRequest) -> ForkChainResponse by answer;
    list_peers(ListPeersRequest) -> ListPeersResponse by answer;
    list_partitions(ListPartitionsRequest) -> ListPartitionsResponse by answer;
    get_schema(GetSchemaRequest) -> GetSchemaResponse by answer;
    verify(VerifyRequest) -> VerifyResponse by answer;
    take_snapshot(TakeSnapshotRequest) -> TakeSnapshotResponse by answer;
    release_snapshot(ReleaseSnapshotRequest) -> ReleaseSnapshotResponse by answer;
}

fn unknown() -> Fault {
    Fault::new("RW5003", RetryClass::OutcomeUnknown, "the stream broke", "")
}

/// An address that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[tokio::test]
async fn every_try_carries_the_same_id_and_the_same_time_of_issue() {
    let reroute = Fault::new("RW2005", RetryClass::Reroute, "another owner", "");
    let script = Script::failing([unknown(), reroute, Fault::retry("RW5002", "peer away", "")]);
    let client = Client::new([script.serve().await]).expect("an address");
    let id = Uuid::now_v7();
    let answer = client.call("withdraw", Arguments::new()).with_request_id(id).send().await.expect("the fourth try is answered");
    assert_eq!(answer.request_id, id.to_string());
    let heard = script.heard();
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|(other, issued_at, _)| *other == id.to_string() && *issued_at == heard[0].1 && *issued_at > 0));
}

#[tokio::test]
async fn the_deadline_is_passed_on_and_shrinks() {
    let script = Script::failing([unknown()]);
    let client = Client::new([script.serve().await]).expect("an address");
    client.call("withdraw", Arguments::new()).with_deadline(Duration::from_secs(2)).send().await.expect("answered");
    let left: Vec<u64> = script.heard().iter().map(|(_, _, left_ms)| *left_ms).collect();
    assert!(left[0] <= 2_000 && left[1] < left[0] && left[1] > 1_000, "{left:?}");
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let script = Script::failing([Fault::refused("RW3101", "insufficient funds", "balance is 1")]);
    let client = Client::new([script.serve().await]).expect("an address");
    let fault = client.call("withdraw", Arguments::new()).send().await.expect_err("refused");
    assert_eq!((fault.code(), fault.help(), script.heard().len()), ("RW3101", "balance is 1", 1));
}

#[tokio::test]
async fn overload_is_repeated_within_a_budget_only() {
    let full = || Fault::overloaded("RW3001", "full", "");
    let script = Script::failing((0..1000).map(|_| full()));
    let client = Client::new([script.serve().await]).expect("an address").with_deadline(Duration::from_secs(60));
    let mut heard_before = 0;
    for (request, tries) in [11, 1, 1].into_iter().enumerate() {
        // The pauses of ten tries are over in a few seconds.
        let fault = client.call("withdraw", Arguments::new()).send().await.expect_err("full");
        assert_eq!(fault.code(), "RW3001");
        assert_eq!(script.heard().len() - heard_before, tries, "request {request}");
        heard_before = script.heard().len();
    }
}

#[tokio::test]
async fn a_router_that_is_full_is_left_alone_for_as_long_as_it_asks() {
    let full = Fault::overloaded("RW3001", "full", "");
    let asked_for = full.retry_after().expect("a pause");
    let script = Script::failing([full.clone(), full]);
    let client = Client::new([script.serve().await]).expect("an address");
    let begun = std::time::Instant::now();
    client.call("withdraw", Arguments::new()).send().await.expect("the third try is answered");
    assert!(begun.elapsed() >= asked_for * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn calls_that_wait_go_out_together() {
    let script = Script::default();
    let client = Client::new([script.serve().await]).expect("an address");
    let calls: Vec<_> = (0..2000).map(|_| client.call("withdraw", Arguments::new())).collect();
    let ids: Vec<String> = calls.iter().map(|call| call.request_id().to_owned()).collect();
    let mut running: tokio::task::JoinSet<_> =
        calls.into_iter().zip(ids).map(|(call, id)| async move { call.send().await.expect("answered").request_id == id }).collect();
    while let Some(is_its_own) = running.join_next().await {
        assert!(is_its_own.expect("no panic"), "each has the answer to its own request");
    }
    let messages = script.messages.load(Ordering::Relaxed);
    assert!(messages < 1000, "{messages} messages for 2000 calls");
}

#[tokio::test]
async fn a_request_that_no_message_can_carry_is_refused_and_harms_nobody() {
    let script = Script::default();
    let client = Client::new([script.serve().await]).expect("an address");
    let fault = client.call("note", Arguments::new().with("text", "x".repeat(9 << 20))).send().await.expect_err("too large");
    assert_eq!((fault.code(), fault.retry_class()), ("RW2002", RetryClass::Refused));
    client.call("note", Arguments::new().with("text", "x".repeat(7 << 20))).send().await.err();
    client.call("note", Arguments::new()).send().await.expect("the stream is whole");
    assert!(script.heard().len() <= 2);
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown_and_names_its_id() {
    let away = (0..1000).map(|_| Fault::retry("RW5002", "peer away", ""));
    let script = Script::failing(std::iter::once(unknown()).chain(away));
    let client = Client::new([script.serve().await]).expect("an address");
    let call = client.call("withdraw", Arguments::new()).with_deadline(Duration::from_millis(300));
    let id = call.request_id().to_owned();
    let fault = call.send().await.expect_err("the deadline is over");
    assert_eq!((fault.code(), fault.retry_class()), ("RW3102", RetryClass::OutcomeUnknown));
    assert!(fault.help().contains(&id), "{}", fault.help());
}

#[tokio::test]
async fn the_next_router_is_asked_when_one_is_away() {
    let script = Script::default();
    let client = Client::new([nobody().await, script.serve().await]).expect("two addresses");
    for _ in 0..3 {
        client.peers().await.expect("the second router answers");
    }
    assert_eq!(script.heard().len(), 3);
}

#[tokio::test]
async fn no_router_at_all_is_told_as_not_executed_and_soon() {
    let client = Client::new([nobody().await, nobody().await]).expect("two addresses").with_patience(Duration::from_millis(100));
    let fault = client.call("withdraw", Arguments::new()).send().await.expect_err("nobody is there");
    assert_eq!((fault.code(), fault.retry_class()), ("RW5009", RetryClass::Retry));
    assert!(fault.message().contains("refused"), "{}", fault.message());
    assert_eq!(Client::connect([nobody().await]).await.map_err(|fault| fault.code().to_owned()).err().as_deref(), Some("RW5009"));
}

#[tokio::test]
async fn a_command_without_an_id_is_not_repeated_when_its_answer_is_lost() {
    let script = Script::failing([unknown()]);
    let client = Client::new([script.serve().await]).expect("an address");
    let fault = client.change_chains(v1::ChangeChainsRequest::default()).await.expect_err("lost");
    assert!(fault.help().contains("chain list"), "{}", fault.help());
    assert_eq!(script.heard().len(), 1);
    let asked = Script::failing([unknown()]);
    let client = Client::new([asked.serve().await]).expect("an address");
    client.change_chains(v1::ChangeChainsRequest { dry_run: true, ..Default::default() }).await.expect("a dry run changes nothing");
    assert_eq!(asked.heard().len(), 2);
}

#[tokio::test]
async fn a_chain_is_waited_for_until_it_ends_and_accepted_ones_are_not() {
    let script = Script { chain_statuses: Arc::new(Mutex::new(["running", "compensating", "compensated"].into())), ..Script::default() };
    let client = Client::new([script.serve().await]).expect("an address");
    let response = client.start_chain("transfer", Arguments::new()).send().await.expect("it ends");
    assert_eq!(response.chain.expect("a chain").status, "compensated");
    assert!(!response.from_stored_outcome, "it was started by this request");
    assert!(script.heard().windows(2).all(|pair| pair[0].0 == pair[1].0), "always the same chain");

    let script = Script { chain_statuses: Arc::new(Mutex::new(["running"].into())), ..Script::default() };
    let client = Client::new([script.serve().await]).expect("an address");
    let response = client.start_chain("transfer", Arguments::new()).accepted().send().await.expect("accepted");
    assert_eq!((response.chain.expect("a chain").status.as_str(), script.heard().len()), ("running", 1));
}

#[tokio::test]
async fn a_snapshot_without_a_peer_is_refused_at_once_and_one_whose_answer_is_lost_is_taken_again() {
    let missing = Fault::retry("RW5020", "peer p2 is away", "");
    let script = Script::failing([missing, Fault::retry("RW5002", "never asked for", "")]);
    let client = Client::new([script.serve().await]).expect("an address");
    let fault = client.take_snapshot(SnapshotOptions::default()).await.expect_err("a peer is missing");
    assert_eq!((fault.code(), script.heard().len()), ("RW5020", 1));
    let script = Script::failing([unknown()]);
    let client = Client::new([script.serve().await]).expect("an address");
    client.take_snapshot(SnapshotOptions::default()).await.expect("taken");
    assert_eq!(script.heard().len(), 2);
}

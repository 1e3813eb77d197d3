//! The stream between a client and a router: many calls share it, and none of them notices.

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all, stream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rootward_client::{Arguments, Client};
use rootward_proto::v1::{self, RetryClass, call_envelope, call_reply};
use tests::{Cluster, Pause, Shape, arguments, check_bank, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use crate::shared::{bank, exe};

/// A stream that is written and read by hand.
struct RawStream {
    requests: mpsc::UnboundedSender<v1::ExchangeCallsRequest>,
    answers: Streaming<v1::ExchangeCallsResponse>,
}

impl RawStream {
    async fn open(cluster: &Cluster) -> RawStream {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut router = cluster.client().expect("a client").raw();
        let answers = router.exchange(UnboundedReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
        RawStream { requests, answers }
    }

    /// Deposits a euro once for each number, all in one message.
    fn deposit(&self, account: i64, numbers: std::ops::Range<u64>) {
        let envelope = |correlation| {
            let call = v1::CallRequest {
                transaction: "deposit".to_owned(),
                arguments: arguments(&[("account_id", &account.to_string()), ("amount", "1")]),
                request_id: Uuid::now_v7().to_string(),
                issued_at_ms: 0,
                ..v1::CallRequest::default()
            };
            v1::CallEnvelope { correlation, time_left_ms: 60_000, request: Some(call_envelope::Request::Call(call)) }
        };
        self.requests.send(v1::ExchangeCallsRequest { envelopes: numbers.map(envelope).collect() }).expect("the stream is open");
    }

    /// The next `count` replies.
    async fn replies(&mut self, count: usize) -> Vec<v1::CallReply> {
        let mut replies = Vec::new();
        while replies.len() < count {
            replies.extend(self.answers.message().await.expect("no failure").expect("an answer").replies);
        }
        assert_eq!(replies.len(), count, "no reply too many");
        replies
    }
}

fn failure(reply: &v1::CallReply) -> Option<&v1::Failure> {
    if let Some(call_reply::Result::Failure(failure)) = &reply.result { Some(failure) } else { None }
}

fn deposit(client: &Client, account: i64, amount: &str) -> rootward_client::Call {
    client.call("deposit", Arguments::new().with("account_id", account).with("amount", amount))
}

#[tokio::test]
async fn each_of_many_calls_over_one_stream_gets_its_own_answer() {
    let bank = bank().await;
    let own = bank.client().expect("a client");
    let mut accounts = Vec::new();
    for peer in ["p1", "p2", "p3"] {
        accounts.extend(bank.open_accounts(&own, peer, 3, 0).await.expect("opened"));
    }
    let client = Client::new([bank.embedded.router_address()]).expect("an address");
    let calls = (0..900).map(async |number: usize| {
        let account = accounts[number % accounts.len()];
        let call = deposit(&client, account, "1");
        let id = call.request_id().to_owned();
        let answer = call.send().await.expect("done");
        assert_eq!((answer.request_id, answer.root_key), (id, account.to_string()));
        assert!(!answer.from_stored_outcome);
    });
    // Chains are started over the same stream.
    let chains = (0..20).map(async |number: usize| {
        let input = Arguments::new().with("from", accounts[number % 9]).with("to", accounts[(number + 1) % 9]).with("amount", "0");
        let start = client.start_chain("transfer", input);
        let id = start.id().to_owned();
        start.send().await.map(|answer| assert_eq!(answer.chain.expect("a chain").id, id))
    });
    let (_, chains) = tokio::join!(join_all(calls), join_all(chains));
    for ended in chains {
        assert!(ended.is_ok() || ended.is_err_and(|fault| fault.retry_class() == RetryClass::Refused));
    }
    for account in accounts {
        assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_000), "account {account}");
    }
}

#[tokio::test]
async fn a_router_that_is_killed_under_load_of_a_stream_leaves_one_effect_of_each_call() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let own = bank.client().expect("a client");
    let mut accounts = bank.open_accounts(&own, "p1", 2, 0).await.expect("opened");
    accounts.extend(bank.open_accounts(&own, "p2", 2, 0).await.expect("opened"));
    let client = Client::new([bank.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(60));
    let done = std::sync::atomic::AtomicUsize::new(0);
    let load = join_all((0..32).map(async |writer: usize| {
        for turn in 0..30 {
            let account = accounts[writer % 4];
            if turn % 5 == 4 {
                let too_much = Arguments::new().with("account_id", account).with("amount", "1000000");
                let fault = client.call("withdraw", too_much).send().await.expect_err("nobody has that much");
                assert_eq!(fault.retry_class(), RetryClass::Refused, "{fault}");
            } else {
                deposit(&client, account, "1").send().await.unwrap_or_else(|fault| panic!("writer {writer}, turn {turn}: {fault}"));
            }
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }));
    let embedded = &mut bank.embedded;
    let kills = async {
        for after in [100, 300, 600] {
            until("the load is under way", async || (done.load(std::sync::atomic::Ordering::Relaxed) >= after).then_some(()))
                .await
                .expect("load");
            embedded.restart_router().await.expect("a router again");
        }
    };
    tokio::join!(load, kills);
    let deposits = bank.reader().sum("select count(*) from entry where kind = 'deposit'").await.expect("read");
    assert_eq!(deposits, 32 * 24);
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_slow_call_holds_up_no_other_on_its_stream() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let own = bank.client().expect("a client");
    let slow = bank.open_accounts(&own, "p1", 1, 0).await.expect("opened")[0];
    let quick = bank.open_accounts(&own, "p2", 1, 0).await.expect("opened")[0];
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at("before_begin", "deposit"))]).await.expect("a worker again");
    let client = Client::new([bank.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(60));
    let held = deposit(&client, slow, "1").send();
    let others = async {
        pause.reached().await.expect("the slow call is under way");
        for _ in 0..20 {
            join_all((0..10).map(|_| deposit(&client, quick, "1").send())).await.into_iter().for_each(|ended| drop(ended.expect("done")));
        }
        assert_eq!(bank.reader().balance(slow).await.expect("read"), Some(0), "the slow one still waits");
        pause.release().expect("it goes on");
    };
    let (held, ()) = tokio::join!(held, others);
    held.expect("done in the end");
    assert_eq!(bank.reader().balance(quick).await.expect("read"), Some(20_000));
}

#[tokio::test]
async fn what_a_stream_or_the_router_has_no_room_for_is_refused_at_once() {
    let shape = Shape { peers: 1, router_settings: "max_in_flight = 30\nmax_in_flight_per_stream = 20\n", ..Shape::shared() };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let own = bank.client().expect("a client");
    let account = bank.open_accounts(&own, "p1", 1, 0).await.expect("opened")[0];
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at("before_begin", "deposit"))]).await.expect("a worker again");
    let (mut first, mut second) = (RawStream::open(&bank).await, RawStream::open(&bank).await);
    first.deposit(account, 0..100);
    let refused = first.replies(80).await;
    pause.reached().await.expect("what found room is under way");
    second.deposit(account, 0..100);
    let refused_second = second.replies(90).await;
    for (replies, setting) in [(&refused, "`max_in_flight_per_stream`"), (&refused_second, "`max_in_flight")] {
        for reply in replies {
            let failure = failure(reply).expect("a refusal");
            assert_eq!((failure.code.as_str(), failure.retry_class()), ("RW3001", RetryClass::Retry));
            assert!(failure.message.contains(setting) && failure.retry_after_ms > 0, "{failure:?}");
        }
    }
    pause.release().expect("the rest goes on");
    for (stream, count) in [(&mut first, 20), (&mut second, 10)] {
        assert!(stream.replies(count).await.iter().all(|reply| failure(reply).is_none()));
    }
    // There is room again.
    first.deposit(account, 100..120);
    assert!(first.replies(20).await.iter().all(|reply| failure(reply).is_none()));
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(5_000), "what was refused left no trace");
}

#[tokio::test]
async fn a_router_that_drains_answers_what_is_under_way_and_ends_the_stream() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let own = bank.client().expect("a client");
    let account = bank.open_accounts(&own, "p1", 1, 0).await.expect("opened")[0];
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at("before_begin", "deposit"))]).await.expect("a worker again");
    let (mut busy, mut idle) = (RawStream::open(&bank).await, RawStream::open(&bank).await);
    busy.deposit(account, 0..1);
    pause.reached().await.expect("it is under way");
    let router = bank.embedded.router_pid().expect("a router");
    kill(Pid::from_raw(i32::try_from(router).expect("small")), Signal::SIGTERM).expect("it runs");
    assert!(idle.answers.message().await.expect("no failure").is_none(), "a stream with nothing under way ends at once");
    busy.deposit(account, 1..2);
    let late = busy.replies(1).await.remove(0);
    let fault = failure(&late).expect("a refusal");
    assert_eq!((late.correlation, fault.code.as_str(), fault.retry_class()), (1, "RW5002", RetryClass::Retry));
    pause.release().expect("it goes on");
    let done = busy.replies(1).await.remove(0);
    assert!(done.correlation == 0 && failure(&done).is_none(), "{done:?}");
    assert!(busy.answers.message().await.expect("no failure").is_none(), "then the stream ends");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(100));
    bank.embedded.restart_router().await.expect("a router again");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_harms_nobody() {
    let bank = bank().await;
    let own = bank.client().expect("a client");
    let account = bank.open_accounts(&own, "p1", 1, 0).await.expect("opened")[0];
    let client = Client::new([bank.embedded.router_address()]).expect("an address");
    let calls: Vec<_> = (0..200).map(|_| deposit(&client, account, "1")).collect();
    let again: Vec<_> = calls.clone();
    // Given up at different moments: in the queue, on the way, and when the answer is there.
    stream::iter(calls.into_iter().enumerate())
        .for_each_concurrent(None, async |(number, call)| {
            let _ = tokio::time::timeout(Duration::from_micros(100 * number as u64), call.send()).await;
        })
        .await;
    for ended in join_all(again.into_iter().map(rootward_client::Call::send)).await {
        ended.expect("the same id settles it");
    }
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(20_000));
}

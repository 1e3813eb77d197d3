//! Set-wise execution gives what row by row gives, and what one transaction at a time gives, by a function's statements for one unit too.

mod program;

use std::time::{Duration, SystemTime};

use futures_util::future::{join_all, try_join_all};
use program::{Author, MANIFEST, TABLES, TRANSACTIONS, Turn};
use rand::{SeedableRng as _, rngs::StdRng};
use rootward_proto::v1::{self, RetryClass};
use tests::{Client, Cluster, LIMIT, Shape, check_logs, compile, compile_example, text_of};

use crate::shared::exe;

/// Set to the seed that a failure printed.
const SEED: &str = "ROOTWARD_SEED";
const ROUNDS: usize = 40;

/// The same tables on workers that run them in four ways.
struct Ways {
    /// Set-wise first, then row by row in batches, then one at a time, then one at a time by the functions of set-wise execution.
    clusters: Vec<Cluster>,
    clients: Vec<Client>,
}

impl Ways {
    async fn start() -> Ways {
        let files = [("rootward.toml", MANIFEST), ("tables.sql", TABLES), ("transactions/boxes.sql", TRANSACTIONS)];
        let compiled = compile(exe(), rootward_schema::Source::from_texts(files)).await.unwrap_or_else(|findings| panic!("{findings:#}"));
        for transaction in compiled.schema.transactions.values() {
            let is_outside = transaction.name.starts_with("row_");
            assert_eq!(transaction.set_wise.is_none(), is_outside, "{}", transaction.name);
        }
        let with = |worker_settings| Cluster::start(exe(), &compiled, Shape { peers: 1, worker_settings, ..Shape::shared() });
        let starts = [with(""), with("set_wise = false\n"), with("max_batch = 1\nset_wise = false\n"), with("max_batch = 1\n")];
        let clusters = try_join_all(starts).await.expect("the clusters start");
        let clients = clusters.iter().map(|cluster| cluster.client().expect("a client")).collect();
        Ways { clusters, clients }
    }

    /// Runs the rounds on all of them; the first difference, if there is one.
    async fn differ(&self, rounds: &[Vec<Turn>]) -> Option<String> {
        let mut given = Vec::new();
        for (at, round) in rounds.iter().enumerate() {
            let answers = join_all(self.clients.iter().map(|client| run_round(client, round))).await;
            given.push(answers.clone());
            for (way, other) in answers.iter().enumerate().skip(1) {
                let first = answers[0].iter().zip(other).zip(round.iter().flatten()).find(|((one, other), _)| one != other);
                if let Some(((one, other), call)) = first {
                    return Some(format!("round {at}, way {way}: {call:#?}\nset-wise: {one}\nelse: {other}"));
                }
            }
        }
        // What is stored is what was answered, whoever stored it: each request comes once more.
        for (at, (round, given)) in rounds.iter().zip(given).enumerate() {
            let again = join_all(self.clients.iter().map(|client| run_round(client, round))).await;
            for (way, (given, again)) in given.iter().zip(&again).enumerate() {
                if let Some((given, again)) = given.iter().zip(again).find(|(given, again)| given != again) {
                    return Some(format!("round {at}, way {way} answered {given}\nand then {again}"));
                }
            }
        }
        let dumps = join_all(self.clusters.iter().map(dump)).await;
        (1..dumps.len()).find(|at| dumps[0] != dumps[*at]).map(|at| {
            let line = dumps[0].iter().zip(&dumps[at]).find(|(one, other)| one != other);
            format!("way {at} has other rows, {} and {}: {line:?}", dumps[0].len(), dumps[at].len())
        })
    }

    /// How many outcomes of each way were stored by the function that ran the transaction, the answer's row beside the reply.
    async fn folded(&self) -> Vec<i64> {
        let sql = "select count(*) from rootward.outcome where answer is not null";
        let counts = join_all(self.clusters.iter().map(|cluster| async { cluster.reader().rows("p1", sql, &[]).await })).await;
        counts.into_iter().map(|rows| rows.expect("read")[0].get(0)).collect()
    }

    async fn set_wise_units(&self) -> Vec<(u64, u64)> {
        let status = join_all(self.clusters.iter().map(|cluster| cluster.wait_until_serving("p1", 0))).await;
        status.into_iter().map(|status| status.map(|status| (status.set_wise, status.committed)).expect("it serves")).collect()
    }
}

/// All roots at once; the calls of a root's turn at once, too.
async fn run_round(client: &Client, round: &[Turn]) -> Vec<String> {
    join_all(round.iter().flatten().map(|call| answer(client, call))).await
}

/// What a caller learns, without what is different each time.
async fn answer(client: &Client, call: &v1::CallRequest) -> String {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match client.send(call.clone()).await {
            Ok(done) => {
                let columns: Vec<String> = done.columns.iter().map(|column| format!("{} {}", column.name, column.r#type)).collect();
                let rows: Vec<Vec<String>> = done.rows.iter().map(|row| row.values.iter().map(text_of).collect()).collect();
                return format!("{} rows of {columns:?}: {rows:?}", done.row_count);
            }
            Err(fault) => {
                let may_pass = matches!(fault.retry_class(), RetryClass::Retry | RetryClass::Reroute | RetryClass::OutcomeUnknown);
                if !may_pass || tokio::time::Instant::now() >= deadline {
                    return format!("{} {}: {fault}", fault.code(), fault.as_wire().sqlstate);
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }
}

/// Every row of the users' tables, and every outcome, in order.
async fn dump(cluster: &Cluster) -> Vec<String> {
    let sql = "select line from (
        select 'box' || box::text from box union all select 'item' || (to_jsonb(item) - 'made')::text from item union all
        select 'label' || label::text from label union all select 'mark' || mark::text from mark union all
        select 'outcome' || concat_ws(' ', entity, root_key, request_id, kind, transaction) from rootward.outcome) as lines (line)
        order by line collate \"C\"";
    let rows = cluster.reader().rows("p1", sql, &[]).await.expect("read");
    rows.iter().map(|row| row.get(0)).collect()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_millis()).expect("a moment")
}

#[tokio::test(flavor = "multi_thread")]
async fn set_wise_row_by_row_and_one_at_a_time_give_the_same() {
    let seed: u64 = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("{SEED}={seed}");
    let ways = Ways::start().await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut author = Author { rng: &mut rng, issued_at_ms: now_ms() };
    let boxes: Vec<i64> = (1..=28).collect();
    let labels = ["it's", "{a,\"b\"}", "back\\slash", "NULL", "東京", " x "].map(str::to_owned);
    // Most boxes are there from the start; some are opened on the way, or missed.
    let open = |root: &i64| vec![author.call("open_box", "box_id", &root.to_string())];
    let mut rounds: Vec<Vec<Turn>> = vec![boxes.iter().take(24).map(open).collect()];
    rounds.extend((0..ROUNDS).map(|_| author.round(&boxes, &labels)));
    let difference = ways.differ(&rounds).await;
    assert!(difference.is_none(), "{SEED}={seed}: {}", difference.unwrap_or_default());
    let ran = ways.set_wise_units().await;
    assert!(ran[0].0 * 10 > ran[0].1, "{SEED}={seed}: only {} of {} units ran set-wise", ran[0].0, ran[0].1);
    assert!(ran[3].0 * 20 > ran[3].1, "{SEED}={seed}: only {} of {} units ran alone in a function", ran[3].0, ran[3].1);
    assert_eq!((ran[1].0, ran[2].0), (0, 0), "the other ways");
    let folded = ways.folded().await;
    assert!(folded[3] >= 10, "{SEED}={seed}: {folded:?}: some ran alone in one trip");
    assert_eq!(folded[1..3], [0, 0], "the other ways");
    for cluster in &ways.clusters {
        check_logs(cluster).expect("nothing in the logs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_does_something_else_is_noticed() {
    let ways = Ways::start().await;
    let mut rng = StdRng::seed_from_u64(7);
    let mut author = Author { rng: &mut rng, issued_at_ms: now_ms() };
    let boxes: Vec<i64> = (1..=24).collect();
    let mut round = |transaction: &str, given: &[(&str, &str)]| -> Vec<Turn> {
        let call = |root: &i64| {
            let mut call = author.call(transaction, "box_id", &root.to_string());
            call.arguments.extend(tests::arguments(given));
            vec![call]
        };
        boxes.iter().map(call).collect()
    };
    let opened = round("open_box", &[("name", "x"), ("n", "1"), ("small", "1")]);
    let rounds = |author: &mut dyn FnMut() -> Vec<Turn>| -> Vec<Vec<Turn>> { (0..5).map(|_| author()).collect() };
    let before = rounds(&mut || round("add", &[("d", "1")]));
    assert_eq!(ways.differ(&[vec![opened], before].concat()).await, None, "the function as it was made");
    let find = "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'rootward_set'::regnamespace and proname like 'add\\_%'";
    let made: String = ways.clusters[0].reader().rows("p1", find, &[]).await.expect("read")[0].get(0);
    let (alone, many) = made.split_once("<<rw_work>>").expect("statements for one unit, then for many");
    let changed = |text: &str| text.replace("\"n\" + rw_s.", "\"n\" + 1 + rw_s.");
    for (way, planted, seen) in
        [(3, format!("{}<<rw_work>>{many}", changed(alone)), "way 3"), (0, format!("{alone}<<rw_work>>{}", changed(many)), "way 1")]
    {
        assert_ne!(planted, made, "there is what is changed");
        ways.clusters[way].reader().run("p1", &planted).await.expect("changed");
        let after = rounds(&mut || round("add", &[("d", "1")]));
        let difference = ways.differ(&after).await;
        assert!(difference.as_ref().is_some_and(|why| why.contains(seen)), "{difference:?}");
    }
}

/// Alone at its root, each such call can run in one trip; what can't be undone behind COMMIT is not left to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_taken_back_is_taken_back_in_one_trip_too() {
    let ways = Ways::start().await;
    let mut rng = StdRng::seed_from_u64(11);
    let mut author = Author { rng: &mut rng, issued_at_ms: now_ms() };
    let long = "x".repeat(3 << 20);
    let mut rounds: Vec<Vec<Turn>> = Vec::new();
    let mut turn = |transaction: &str, given: &[(&str, &str)]| {
        let mut call = author.call(transaction, "box_id", "1");
        call.arguments.extend(tests::arguments(given));
        rounds.push(vec![vec![call]]);
    };
    turn("open_box", &[("name", "x"), ("n", "1"), ("small", "1")]);
    let nowhere = [("kind", "none"), ("item_no", "7")];
    let nothing_to_share = [("kind", "none"), ("item_no", "7"), ("d", "1"), ("by", "2")];
    let item = [("kind", "k"), ("item_no", "1"), ("code", "c"), ("amount", "1")];
    let fill = [("name", long.as_str()), ("note", "n"), ("doc", "{}"), ("raw", "\\x00"), ("at", "2024-01-01 00:00:00+00")];
    let cases: [(&str, &[(&str, &str)]); 6] = [
        // It misses before anything is written, and after.
        ("take", &nowhere),
        ("share", &nothing_to_share),
        // A CHECK refuses it; then a key that is there, the second time.
        ("add", &[("d", "-5000")]),
        ("put", &item),
        ("put", &item),
        // An answer of 3 MiB: whether it can be given is known only when it has come.
        ("fill_box", &fill),
    ];
    for (transaction, given) in cases {
        // After a refusal, a while passes until batches run in one trip again.
        for _ in 0..20 {
            turn("add", &[("d", "1")]);
        }
        turn(transaction, given);
    }
    assert_eq!(ways.differ(&rounds).await, None);
    let folded = ways.folded().await;
    assert!(folded[0] >= 10 && folded[3] >= 10, "{folded:?}: some ran in one trip");
    let sql = "select count(*) from rootward.outcome where length(array_to_string(answer, '')) > 1000000";
    assert_eq!(ways.clusters[0].reader().rows("p1", sql, &[]).await.expect("read")[0].get::<_, i64>(0), 0, "a large one did not");
}

/// In one trip the outcomes are stored beside the work: of those that met their expectation, each with its own answer.
#[tokio::test(flavor = "multi_thread")]
async fn who_misses_in_one_trip_has_no_outcome_of_the_others() {
    let ways = Ways::start().await;
    let mut rng = StdRng::seed_from_u64(5);
    let mut author = Author { rng: &mut rng, issued_at_ms: now_ms() };
    let mut round = |transaction: &str, boxes: &[i64]| -> Vec<Turn> {
        let call = |root: &i64| {
            let mut call = author.call(transaction, "box_id", &root.to_string());
            let code = format!("c{root}");
            let given = tests::arguments(&[("kind", "k"), ("item_no", "1"), ("code", &code), ("amount", "1"), ("small", "1"), ("i", "1")]);
            for (name, value) in given {
                call.arguments.entry(name).and_modify(|random| *random = value);
            }
            vec![call]
        };
        boxes.iter().map(call).collect()
    };
    let all: Vec<i64> = (1..=24).collect();
    let odd: Vec<i64> = all.iter().copied().filter(|root| root % 2 == 1).collect();
    let mut rounds = vec![round("open_box", &all)];
    for _ in 0..5 {
        rounds.push(round("put", &odd));
        // After a refusal, a while passes until batches run in one trip again.
        rounds.extend((0..20).map(|_| round("small", &[1])));
        rounds.push(round("take", &all));
    }
    assert_eq!(ways.differ(&rounds).await, None);
    let sql = "select count(*) from rootward.outcome where transaction = 'take' and answer is not null";
    let folded: i64 = ways.clusters[0].reader().rows("p1", sql, &[]).await.expect("read")[0].get(0);
    assert!(folded >= 10, "only {folded} ran in one trip");
    for cluster in &ways.clusters {
        check_logs(cluster).expect("nothing in the logs");
    }
}

/// Which transactions of the examples run set-wise.
#[tokio::test]
async fn the_examples_transactions_are_in_the_class_where_they_can_be() {
    let mut said = String::new();
    for example in ["bank", "shop", "locations", "workflow"] {
        let compiled = compile_example(exe(), example).await.expect("it compiles");
        let names = |is_inside: bool| -> Vec<String> {
            let which = compiled.schema.transactions.values().filter(|transaction| transaction.set_wise.is_some() == is_inside);
            which.map(|transaction| transaction.name.clone()).collect()
        };
        said += &format!("{example}: {}\n  row by row: {}\n", names(true).join(" "), names(false).join(" "));
    }
    let expected = include_str!("examples.txt");
    assert_eq!(said, expected, "look at the difference before it is written down:\n{said}");
}

//! The benchmark really measures, gives its figures under their names, and fails if the books are wrong.

use std::{collections::BTreeSet, process::Command};

use rootward_cluster::{Compiled, EmbeddedCluster, EmbeddedOptions, Gauge, Place, Transferred, TwoPhaseClient, TwoPhaseTransfer};
use tests::compile_example;

use crate::shared::exe;

mod consistent;

const TOTAL: &str = "select coalesce(sum(balance), 0)::bigint from account";

#[test]
fn chains_are_measured_beside_two_phase_commit() {
    let output = Command::new(exe())
        .args(["bench", "chains", "--clients", "2", "--duration", "1s", "--rounds", "1", "-o", "json"])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    for name in ["cpu_count", "cpu_model", "memory_mb", "postgres_version", "kernel", "fdatasync_us", "build"] {
        assert!(!report["machine"][name].is_null(), "the machine has {name}: {report}");
    }
    let figures = report["figures"].as_array().expect("a list");
    let names: BTreeSet<&str> = figures.iter().filter_map(|figure| figure["name"].as_str()).collect();
    let wanted = [
        "ratio_vs_2pc",
        "ratio_vs_2pc_2",
        "chains_per_s_2",
        "twopc_per_s_2",
        "p50_us_2",
        "p99_us_2",
        "twopc_p50_us_2",
        "twopc_p99_us_2",
        "latency_ratio_1",
        "chain_alone_p50_us",
        "chain_alone_p99_us",
        "call_alone_p50_us",
        "call_alone_p99_us",
        "flushes_per_chain_1",
        "flushes_per_chain_16",
        "flushes_per_2pc_1",
        "flushes_per_2pc_16",
    ];
    assert_eq!(names, wanted.into_iter().collect::<BTreeSet<_>>());
    for figure in figures {
        assert!(figure["value"].as_f64().is_some_and(|value| value > 0.0) && figure["unit"].is_string(), "{figure}");
    }
    assert_eq!(report["checks"], serde_json::json!(["sum unchanged", "no prepared transaction left", "verify: OK"]));
}

/// The cluster is another program's; what was acknowledged is counted there, and a second run finds its roots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_runs_already_is_measured_from_outside() {
    let bank = crate::shared::own_bank(2).await;
    let router = bank.embedded.router_address().to_owned();
    let bench = async |of: &'static str, more: &'static [&'static str]| {
        let router = router.clone();
        let run = move || {
            let common = ["--clients", "2", "--duration", "300ms", "--rounds", "1", "-o", "json", "--on", &router];
            Command::new(exe()).args(["bench", of]).args(common).args(more).output().expect("the program runs")
        };
        tokio::task::spawn_blocking(run).await.expect("no panic")
    };
    for _ in 0..2 {
        let output = bench("bank", &[]).await;
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let names: BTreeSet<&str> =
            report["figures"].as_array().expect("a list").iter().filter_map(|figure| figure["name"].as_str()).collect();
        assert_eq!(names, BTreeSet::from(["tps_2", "p50_us_2", "p99_us_2"]));
        assert_eq!(report["checks"][1], "sum unchanged", "{report}");
    }
    let opened = bank.reader().sum("select count(*) from account").await.expect("counted");
    assert_eq!(opened, 10_000);
    let output = bench("shop", &[]).await;
    let told =
        |output: &std::process::Output| [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    let error = told(&output);
    assert!(!output.status.success() && error.contains("RW1109") && error.contains("schema/examples/shop"), "{error}");
    let nobody = Command::new(exe()).args(["bench", "bank", "--on", "http://127.0.0.1:1"]).output().expect("the program runs");
    assert!(told(&nobody).contains("error[RW5009]: router http://127.0.0.1:1"), "{nobody:?}");
    let output = bench("bank", &["--kill", "p1@100ms"]).await;
    assert!(!output.status.success() && told(&output).contains("--kill"), "{output:?}");
}

#[test]
fn journals_and_reference_data_are_measured() {
    for (of, args, wanted) in [
        (
            "journal",
            &["--clients", "2", "--rate", "100", "--duration", "500ms", "--rounds", "1"][..],
            &["journal_throughput_ratio", "outcomes_ratio", "events_per_s", "event_p99_us"][..],
        ),
        ("reference", &["--peers", "2", "--changes", "3"], &["reference_visible_p50_us", "reference_written_p99_us"]),
    ] {
        let output = Command::new(exe()).args(["bench", of, "-o", "json"]).args(args).output().expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let figures = report["figures"].as_array().expect("a list");
        for name in wanted {
            let value = figures.iter().find(|figure| figure["name"] == *name).and_then(|figure| figure["value"].as_f64());
            assert!(value.is_some_and(|value| value >= 0.0), "{name}: {report}");
        }
    }
}

/// The last peer of the router's is a stand-in; what real ones acknowledged is counted.
#[test]
fn more_peers_are_measured_with_commits_that_take_their_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("scale.html");
    let few = ["--peers", "1,2", "--router-peers", "1,17", "--commit-delay", "1ms", "--duration", "300ms", "--rounds", "1", "-o", "json"];
    let output = Command::new(exe()).args(["bench", "scale", "--report"]).arg(&page).args(few).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let figures = report["figures"].as_array().expect("a list");
    let value = |name: &str| figures.iter().find(|figure| figure["name"] == name).and_then(|figure| figure["value"].as_f64());
    for name in ["scale_tps_1", "scale_tps_2", "scale_efficiency_2", "router_cpu_us_1", "router_cpu_us_17"] {
        assert!(value(name).is_some_and(|value| value > 0.0), "{name}: {report}");
    }
    assert_eq!(report["checks"][0], "sum unchanged");
    assert!(std::fs::read_to_string(&page).expect("a page").contains("2 peers: "), "the curve counts peers");
}

#[test]
fn a_transaction_of_one_root_is_measured_beside_pgbench() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("out.html");
    let output = Command::new(exe())
        .args([
            "bench",
            "bank",
            "--clients",
            "2",
            "--duration",
            "500ms",
            "--rounds",
            "1",
            "--kill",
            "p1@200ms",
            "--memory-for",
            "1100ms",
            "-o",
            "json",
            "--report",
        ])
        .arg(&page)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let figures = report["figures"].as_array().expect("a list");
    let value = |name: &str| {
        let figure = figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
        assert!(figure["unit"].is_string(), "{figure}");
        figure["value"].as_f64().expect("a number")
    };
    for name in ["ratio_vs_statement_2", "ratio_vs_pipelined_2", "tps_2", "p50_us_2", "p99_us_2", "statement_tps_2", "pipelined_p99_us_2"] {
        assert!(value(name) > 0.0, "{name} of {report}");
    }
    for name in ["ratio_vs_statement_rows_2", "flushes_per_tx_2", "wal_bytes_per_tx", "router_memory_mib", "worker_memory_mib", "kill_tps"]
    {
        assert!(value(name) > 0.0, "{name} of {report}");
    }
    for name in ["router_rss_mb", "worker_rss_mb", "router_rss_mb_start", "worker_rss_mb_middle", "worker_rss_mb_end", "memory_tps"] {
        assert!(value(name) > 0.0, "{name} of {report}");
    }
    assert!(value("router_rss_mb_per_min").is_finite() && value("worker_rss_mb") >= value("worker_rss_mb_end"), "{report}");
    // Ticks of ten milliseconds may miss what is done in half a second.
    for name in ["router_cpu_us", "worker_cpu_us", "postgres_cpu_us", "client_cpu_us", "statement_postgres_cpu_us"] {
        assert!(value(name) >= 0.0, "{name} of {report}");
    }
    let ratio = value("tps_2") / value("statement_tps_2");
    assert!((value("ratio_vs_statement_2") - ratio).abs() < 0.01, "{report}");
    assert!(value("kill_longest_pause_ms") > 20.0, "PostgreSQL was away: {report}");
    let checks: Vec<&str> = report["checks"].as_array().expect("a list").iter().filter_map(|check| check.as_str()).collect();
    assert_eq!(checks.first(), Some(&"sum unchanged"));
    assert!(checks[1].ends_with("transactions that were answered are there, once each"), "{checks:?}");
    assert!(report["settings"]["statement"].as_str().is_some_and(|text| text.contains("superuser")), "{report}");
    let html = std::fs::read_to_string(&page).expect("the report");
    assert!(html.contains("<svg") && html.ends_with("</html>\n") && !html.contains("<script"), "{html}");
}

#[test]
fn an_overload_is_measured_beside_the_capacity_and_what_is_refused_is_not_done() {
    let output = Command::new(exe())
        .args(["bench", "overload", "--capacity", "300", "--times", "5", "--duration", "2s", "--rounds", "1", "-o", "json"])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let figures = report["figures"].as_array().expect("a list");
    let value = |name: &str| figures.iter().find(|figure| figure["name"] == name).and_then(|figure| figure["value"].as_f64());
    for name in ["goodput_ratio", "admitted_p99_us", "amplification", "goodput_per_s", "peak_per_s", "offered_per_s", "refused_per_s"] {
        assert!(value(name).is_some_and(|value| value > 0.0), "{name} of {report}");
    }
    // The capacity is the worker's setting: whatever is offered, no more is done, but for what each lane may take beyond it at once.
    let goodput = value("goodput_per_s").expect("there");
    assert!(goodput <= 300.0 * 1.1, "{report}");
    let checks: Vec<&str> = report["checks"].as_array().expect("a list").iter().filter_map(|check| check.as_str()).collect();
    assert!(checks[0].starts_with("none of ") && !checks[0].starts_with("none of 0 "), "something was refused: {checks:?}");
    assert!(checks.contains(&"sum unchanged") && checks.contains(&"verify: OK"), "{checks:?}");
}

/// A script over tables of the user's own, and what fills them.
const OWN_SCRIPT: &str = "\\set id random_zipfian(1, 20, 1.5)\nbegin;\nupdate account set balance = balance + 1 where account_id = :id;\n\
                          insert into entry (account_id, entry_id, kind, amount, at) values (:id, gen_random_uuid(), 'deposit', 1, now());\n\
                          commit;\n";
const OWN_DATA: &str = "insert into account (account_id, owner, balance) select id, 'Ada', 0 from generate_series(1, 20) id";
const OWN_REFERENCE: &str = "insert into currency values ('EUR', 'Euro', 2)";

#[test]
fn a_script_for_pgbench_is_measured_through_rootward_and_as_it_is() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own.sql");
    let data = folder.path().join("data.sql");
    std::fs::write(&own, OWN_SCRIPT).expect("written");
    std::fs::write(&data, OWN_DATA).expect("written");
    let reference = folder.path().join("reference.sql");
    std::fs::write(&reference, OWN_REFERENCE).expect("written");
    let reference = reference.display().to_string();
    let sample = top.join("docs/samples/tpcb.pgbench.sql");
    let (bank, own, data) = (top.join("schema/examples/bank"), own.display().to_string(), data.display().to_string());
    let bank = bank.display().to_string();
    let of_own = ["-f", &own, "--root", "account=id", "--schema", &bank, "--setup", &data, "--reference", &reference];
    for (args, manner) in [(&["-f", sample.to_str().expect("UTF-8")][..], "set-wise"), (&of_own, "row by row")] {
        let output = Command::new(exe())
            .args(["bench", "pgbench", "--clients", "2", "--duration", "500ms", "--rounds", "1", "-o", "json"])
            .args(args)
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let figures = report["figures"].as_array().expect("a list");
        for name in ["tps_2", "statement_tps_2", "ratio_vs_statement_2", "p99_us_2", "statement_p99_us_2"] {
            let figure = figures.iter().find(|figure| figure["name"] == name).and_then(|figure| figure["value"].as_f64());
            assert!(figure.is_some_and(|value| value > 0.0), "{name} of {report}");
        }
        assert!(report["settings"]["script"].as_str().is_some_and(|text| text.contains(manner)), "{report}");
        let checks = report["checks"].to_string();
        assert!(checks.contains("once each") && checks.contains("verify: OK") && !checks.contains("sum unchanged"), "{checks}");
    }
}

#[test]
fn a_script_that_cannot_be_run_is_told_with_file_line_and_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("bad.sql");
    for (text, said) in [
        ("\\set id 1\n\\sleep 1 s\n", "bad.sql:2: `\\sleep` is not understood"),
        ("\\set id 1\nselect :id;\n", "bad.sql:2: which variable"),
        ("-- root: account = :id\n\\set id 1\nselect balance from acount where account_id = :id;\n", "bad.sql:3:21"),
    ] {
        std::fs::write(&script, text).expect("written");
        let output = Command::new(exe()).args(["bench", "pgbench", "-f"]).arg(&script).output().expect("the program runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}: {error}");
        assert!(error.contains(said) && error.contains("RW1"), "{text}: {error}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    for (args, said) in [
        (&["--clients", "0"][..], "between 1 and 1000 clients"),
        (&["--against", "mysql"], "there is no baseline `mysql`"),
        (&["--against", "2pc"], "rootward bench chains"),
        (&["--kill", "p9@1s"], "there is no peer `p9`"),
        (&["--kill", "p1"], "PEER@TIME"),
        (&["--peers", "2"], "--against none"),
        (&["--rate", "0"], "between 1 and 1000000"),
        (&["--report", "/nowhere/at/all.html"], "can't be written"),
    ] {
        let output = Command::new(exe()).args(["bench", "bank"]).args(args).output().expect("the program runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(said), "{args:?}: {error}");
        assert!(error.starts_with("error[RW11") && (error.contains("help: ") || error.contains("--help")), "{args:?}: {error}");
    }
    let output = Command::new(exe()).args(["bench", "bank", "--against", "mysql", "-o", "json"]).output().expect("the program runs");
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).expect("programs get an object");
    assert_eq!((output.status.code(), error["error"]["code"].as_str()), (Some(2), Some("RW1109")));
}

/// Two peers with one account each, filled by SQL: nothing of ours is under test here but the baseline and the books.
struct TwoBanks {
    cluster: EmbeddedCluster,
    databases: Vec<String>,
    gauge: Gauge,
    compiled: Compiled,
}

impl TwoBanks {
    async fn start() -> TwoBanks {
        let compiled = compile_example(exe(), "bank").await.expect("the example is right");
        let mut options = EmbeddedOptions::new(exe());
        options.peers = 2;
        options.server_settings = [("max_prepared_transactions", "10"), ("fsync", "off")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let cluster = EmbeddedCluster::start(options, &compiled).await.expect("the cluster starts");
        let databases: Vec<String> = ["p1", "p2"].map(|id| cluster.database(id)).into();
        let gauge = Gauge::connect(&databases).await.expect("they can be reached");
        let banks = TwoBanks { cluster, databases, gauge, compiled };
        for peer in [0, 1] {
            banks.run(peer, "insert into currency values ('EUR', 'Euro', 2)").await;
            banks.run(peer, &format!("insert into account (account_id, owner, balance) values ({}, 'Ada', 10)", peer + 1)).await;
        }
        banks
    }

    async fn run(&self, peer: usize, sql: &str) {
        let (client, connection) = tokio_postgres::connect(&self.databases[peer], tokio_postgres::NoTls).await.expect("a connection");
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        connection.await.expect("it ends").expect("in order");
    }

    async fn client(&self) -> TwoPhaseClient {
        let transactions = &self.compiled.schema.transactions;
        let transfer = TwoPhaseTransfer::new(&transactions["transfer_out"], &transactions["transfer_in"]);
        TwoPhaseClient::connect(&self.databases, &transfer).await.expect("connected")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_tell_what_two_phase_commit_left_and_what_was_smuggled_in() {
    let banks = TwoBanks::start().await;
    let before = banks.gauge.books(TOTAL).await.expect("books");
    assert_eq!((before.total, before.prepared), (20, 0));
    let mut client = banks.client().await;
    let (ada, ben) = (Place { peer: 0, root: 1 }, Place { peer: 1, root: 2 });
    assert_eq!(client.transfer(ada, ben, 7).await.expect("an answer"), Transferred::Done);
    let refused = client.transfer(ada, ben, 7).await.expect("an answer");
    assert_eq!(refused, Transferred::Refused("insufficient funds".to_owned()));
    let nobody = Place { peer: 1, root: 3 };
    let refused = client.transfer(ada, nobody, 1).await.expect("an answer");
    assert!(matches!(&refused, Transferred::Refused(reason) if reason.contains("entry_account_id_fkey")), "{refused:?}");
    banks.run(1, "do $$ begin assert (select balance from account) = 17; assert (select count(*) from entry) = 1; end $$").await;
    client.transfer(ada, ada, 1).await.expect_err("both on one peer");
    before.check(&banks.gauge.books(TOTAL).await.expect("books")).expect("nothing was lost, nothing is prepared");

    banks.run(0, "begin; update account set balance = balance; prepare transaction 'forgotten'").await;
    let found = before.check(&banks.gauge.books(TOTAL).await.expect("books")).expect_err("one is left").to_string();
    assert!(found.contains("1 prepared"), "{found}");
    assert_eq!(client.transfer(ada, ben, 1).await.expect("an answer"), Transferred::Aborted, "its lock is waited for, but not for ever");
    banks.run(0, "rollback prepared 'forgotten'").await;
    banks.run(0, "update account set balance = balance + 1").await;
    let found = before.check(&banks.gauge.books(TOTAL).await.expect("books")).expect_err("money appeared").to_string();
    assert!(found.contains("was 20 and is 21"), "{found}");
    banks.cluster.stop().await.expect("it stops");
}

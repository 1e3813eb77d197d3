//! The benchmarks of consistent reads: they find nothing wrong with Rootward, and see what is wrong with its rivals.

use std::process::{Command, Output};

use serde_json::Value as Json;

use crate::shared::exe;

fn bench(args: &[&str]) -> Output {
    Command::new(exe()).arg("bench").args(args).output().expect("the program runs")
}

fn report(output: &Output) -> Json {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn figure(report: &Json, name: &str) -> f64 {
    let found = report["figures"].as_array().and_then(|figures| figures.iter().find(|figure| figure["name"] == name));
    let value = found.and_then(|figure| figure["value"].as_f64());
    value.unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn moves_are_measured_and_fail_nobody() {
    let report = report(&bench(&["move", "--switches", "2", "--rate", "100", "--rows", "5000", "-o", "json"]));
    for name in ["move_stall_p50_us", "move_held_p50_us", "move_rows_per_s", "move_ratio_vs_copy", "move_requests"] {
        assert!(figure(&report, name) > 0.0, "{name}: {report}");
    }
    assert_eq!((figure(&report, "move_failed_requests"), figure(&report, "move_switches")), (0.0, 2.0));
}

#[test]
fn a_failover_is_measured_and_fails_nobody() {
    let report = report(&bench(&["failover", "--clients", "2", "--rounds", "1", "-o", "json"]));
    for name in ["failover_after_promotion_s", "failover_promotion_s", "failover_after_loss_s"] {
        assert!(figure(&report, name) > 0.0, "{name}: {report}");
    }
    assert!(figure(&report, "failover_after_loss_s") > figure(&report, "failover_promotion_s"), "{report}");
    assert!(figure(&report, "failover_lost") >= 0.0, "{report}");
    assert_eq!(report["checks"], serde_json::json!(["no request failed", "verify: OK"]));
}

#[test]
fn totals_are_right_over_kills_and_wrong_over_foreign_tables() {
    let rivals = "fdw,fdw-one-message,2pc";
    let output =
        bench(&["xtm", "-w", "6", "-r", "1", "-a", "100", "-n", "150", "-s", "2", "--against", rivals, "--kill", "2", "-o", "json"]);
    let report = report(&output);
    for rival in ["fdw", "fdw_one_message", "2pc"] {
        let (speed, ratio) = (format!("xtm_{rival}_transfers_per_s"), format!("xtm_ratio_vs_{rival}"));
        assert!(figure(&report, &speed) > 0.0 && figure(&report, &ratio) > 0.0, "{rival}: {report}");
    }
    assert!(figure(&report, "xtm_transfers_per_s") > 0.0 && figure(&report, "xtm_reads") > 0.0, "{report}");
    assert_eq!((figure(&report, "xtm_wrong_totals"), figure(&report, "xtm_aborts"), figure(&report, "xtm_kills")), (0.0, 0.0, 2.0));
    // The control: the reader sees wrong totals where there are some.
    assert!(figure(&report, "xtm_fdw_wrong_totals_percent") > 0.0, "{report}");
    let checks: Vec<&str> = report["checks"].as_array().expect("a list").iter().filter_map(Json::as_str).collect();
    assert_eq!(checks[1], "each of 900 transfers was done once after 2 kills: every account holds what they leave");
}

#[test]
fn the_output_is_that_of_xtmbench() {
    let output = bench(&["xtm", "-w", "2", "-r", "1", "-a", "50", "-n", "5", "-p", "60"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.trim_end().lines().collect();
    assert!(lines.contains(&"50 accounts inserted") && !text.contains("Total="), "{text}");
    let last: Json = serde_json::from_str(lines.last().expect("lines")).expect("a line of JSON at the end");
    let names = [
        "tps",
        "transactions",
        "selects",
        "updates",
        "aborts",
        "abort_percent",
        "readers",
        "writers",
        "update_percent",
        "accounts",
        "iterations",
        "shards",
    ];
    assert!(names.iter().all(|name| last[name].is_number()), "{last}");
    assert_eq!((&last["transactions"], &last["aborts"], &last["shards"]), (&10.into(), &0.into(), &2.into()));
}

#[test]
fn snapshots_are_measured_under_load() {
    let args = ["snapshots", "--clients", "4", "--snapshots", "10", "--pause-ms", "0", "--duration", "1s", "--rounds", "1", "-o", "json"];
    let report = report(&bench(&args));
    assert_eq!((figure(&report, "snapshots_taken"), figure(&report, "snapshots_wrong_totals")), (10.0, 0.0));
    for name in [
        "snapshots_pause_p50_us",
        "snapshots_pause_p99_us",
        "snapshots_throughput_ratio",
        "snapshots_chains_per_s_without",
        "flush_alone_p99_us",
    ] {
        assert!(figure(&report, name) > 0.0, "{name}: {report}");
    }
}

#[test]
fn what_can_not_be_measured_is_refused_before_anything_starts() {
    for (args, code, said) in [
        (["-a", "10", "-s", "8"].as_slice(), "RW1121", "at least -a 160"),
        (&["--kill", "100", "-w", "1", "-n", "50"], "RW1121", "fewer kills"),
        (&["--against", "mysql"], "RW1120", "`mysql`"),
        (&["-s", "9"], "RW1110", "9"),
    ] {
        let output = bench(&[&["xtm"], args].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.starts_with(&format!("error[{code}]")) && error.contains(said), "{args:?}: {error}");
    }
}

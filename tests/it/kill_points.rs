//! A worker, its lanes' backends, and PostgreSQL itself, killed with -9 at each point around a commit: sent again with the
//! same id, the request has taken effect exactly once.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{KILL_POINTS, Pause, Victim, check_bank, until, while_killing};
use uuid::Uuid;

use crate::shared::own_bank;

#[tokio::test]
async fn a_call_takes_effect_once_whoever_is_killed_wherever_around_its_commit() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let given = [("account_id", key.as_str()), ("amount", "1")];
    let mut balance = 10_000;
    for point in KILL_POINTS {
        for victim in Victim::ALL {
            let case = format!("{victim:?} killed at {point}");
            let id = Uuid::now_v7();
            let answer = while_killing(&mut bank, ("p1", victim), (point, "deposit"), client.settle("deposit", &given, id)).await;
            let answer = answer.unwrap_or_else(|error| panic!("{case}: {error:#}"));
            let answer = answer.unwrap_or_else(|fault| panic!("{case}: {fault}"));
            let again = client.settle("deposit", &given, id).await.expect("the same answer");
            assert!(again.from_stored_outcome, "{case}");
            assert_eq!(again.rows, answer.rows, "{case}");
            balance += 100;
            assert_eq!(bank.reader().balance(account).await.expect("read"), Some(balance), "{case}");
        }
    }
    check_bank(&bank).await.expect("every promise is kept");
}

/// Both times COMMIT was sent and never answered. What happened only the outcome row knows, and the caller hears of it: a
/// COMMIT that came through is answered from the row, one that did not is no answer at all, and the request is run.
#[tokio::test]
async fn a_commit_that_was_sent_and_landed_and_one_that_did_not_are_told_apart() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let given = [("account_id", key.as_str()), ("amount", "1")];
    let reader = bank.reader();
    for (point, lands) in [("commit_sent", true), ("after_outcome", false)] {
        let id = Uuid::now_v7();
        let pause = Pause::new().expect("a folder");
        let term = bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at(point, "deposit"))]).await.expect("armed");
        let before = reader.balance(account).await.expect("read").expect("it is there");
        if lands {
            reader.run("p1", "alter system set synchronous_standby_names = 'nobody'").await.expect("set");
            reader.run("p1", "select pg_reload_conf()").await.expect("loaded");
        }
        let break_it = async {
            pause.reached().await.expect("under way");
            if lands {
                // It is flushed, and waits for a standby before it says so.
                let waits = "select 1 from pg_stat_activity where usename = 'rootward_lane' and wait_event = 'SyncRep'";
                let landed = until("the COMMIT lands", async || reader.rows("p1", waits, &[]).await.ok().filter(|rows| !rows.is_empty()));
                landed.await.expect("it lands");
                bank.kill_lane_backends("p1").await.expect("killed");
                let reset = "alter system reset synchronous_standby_names";
                until("PostgreSQL is back", async || reader.run("p1", reset).await.ok()).await.expect("reset");
                reader.run("p1", "select pg_reload_conf()").await.expect("loaded");
                pause.release().expect("released");
            } else {
                // A stopped backend is sent its COMMIT, and dies before it reads it.
                let backends = "select pid from pg_stat_activity where usename = 'rootward_lane' and datname = current_database()";
                let backends: Vec<i32> = reader.rows("p1", backends, &[]).await.expect("read").iter().map(|row| row.get(0)).collect();
                for pid in &backends {
                    kill(Pid::from_raw(*pid), Signal::SIGSTOP).expect("stopped");
                }
                pause.release().expect("released");
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert!(reader.outcomes(id).await.expect("read").is_empty(), "nothing landed");
                for pid in backends {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
                }
            }
        };
        let (answer, ()) = tokio::join!(client.settle("deposit", &given, id), break_it);
        let answer = answer.unwrap_or_else(|fault| panic!("{point}: {fault}"));
        assert_eq!(answer.from_stored_outcome, lands, "{point}");
        bank.wait_until_serving("p1", term).await.expect("a new term");
        assert_eq!(reader.balance(account).await.expect("read"), Some(before + 100), "{point}");
    }
    check_bank(&bank).await.expect("every promise is kept");
}

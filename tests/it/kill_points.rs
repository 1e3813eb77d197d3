//! A worker, and PostgreSQL itself, killed with -9 at each point around a commit: sent again with the same id, the request
//! has taken effect exactly once.

use tests::{Client, Cluster, KILL_POINTS, Pause, Victim, check_bank};
use uuid::Uuid;

use crate::shared::own_bank;

#[tokio::test]
async fn a_call_takes_effect_once_whoever_is_killed_wherever_around_its_commit() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let mut balance = 10_000;
    for point in KILL_POINTS {
        for victim in [Victim::Worker, Victim::Postgres] {
            deposit_while_killing(&mut bank, &client, account, point, victim).await;
            balance += 100;
            assert_eq!(bank.reader().balance(account).await.expect("read"), Some(balance), "{victim:?} killed at {point}");
        }
    }
    check_bank(&bank).await.expect("every promise is kept");
}

async fn deposit_while_killing(bank: &mut Cluster, client: &Client, account: i64, point: &str, victim: Victim) {
    let key = account.to_string();
    let (id, given) = (Uuid::now_v7(), [("account_id", key.as_str()), ("amount", "1")]);
    let pause = Pause::new().expect("a folder");
    let armed = match victim {
        Victim::Worker => format!("{point}/deposit=kill"),
        Victim::Postgres => pause.at(point, "deposit"),
    };
    let term = restart_worker(bank, "p1", &[("ROOTWARD_FAIL_POINT", &armed)]).await;
    let kill = async {
        match victim {
            Victim::Worker => {
                bank.embedded.wait_for_worker_end("p1").await;
                bank.embedded.start_worker("p1", &[]).await.expect("a worker again");
            }
            Victim::Postgres => {
                pause.reached().await.expect("reached");
                bank.embedded.kill_postgres("p1").await.expect("killed");
                bank.embedded.start_postgres("p1").await.expect("a server again");
                pause.release().expect("released");
            }
        }
    };
    let (answer, ()) = tokio::join!(client.settle("deposit", &given, id), kill);
    let answer = answer.unwrap_or_else(|fault| panic!("{victim:?} at {point}: {fault}"));
    bank.wait_until_serving("p1", term).await.expect("a new term");
    let again = client.settle("deposit", &given, id).await.expect("the same answer");
    assert!(again.from_stored_outcome, "{victim:?} at {point}");
    assert_eq!(again.rows, answer.rows, "{victim:?} at {point}");
}

/// Starts a worker anew with this environment; returns its term.
pub async fn restart_worker(bank: &mut Cluster, peer: &str, env: &[(&str, &str)]) -> i64 {
    let before = bank.wait_until_serving(peer, 0).await.expect("it serves").term;
    bank.embedded.kill_worker(peer).await.expect("killed");
    bank.embedded.start_worker(peer, env).await.expect("a worker again");
    bank.wait_until_serving(peer, before).await.expect("it serves again").term
}

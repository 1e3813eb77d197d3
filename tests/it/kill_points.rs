//! A worker, its lanes' backends, and PostgreSQL itself, killed with -9 at each point around a commit: sent again with the
//! same id, the request has taken effect exactly once.

use tests::{KILL_POINTS, Victim, check_bank, while_killing};
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

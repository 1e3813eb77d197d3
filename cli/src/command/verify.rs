//! `rootward verify`: counts what must hold, on every peer.

use std::process::ExitCode;

use rootward_client::v1;
use serde_json::json;

use super::{Context, exit, fail};
use crate::output;

/// Counts and prints; the code is 4 if something doesn't hold, 6 if that is only that a peer could not be counted.
pub(crate) async fn run(context: &Context) -> ExitCode {
    match context.client.verify().await {
        Ok(response) => report(context, &response),
        Err(fault) => fail(&fault, context.format),
    }
}

/// Prints the checks and gives the code.
pub(crate) fn report(context: &Context, response: &v1::VerifyResponse) -> ExitCode {
    if context.format.is_json() {
        let checks = response.checks.iter().map(check_json).collect();
        output::print_list(context.format, "checks", checks, json!({"ok": response.is_ok}));
    } else {
        output::print(&text_of(response));
        if !response.is_ok {
            output::print_error(
                "error[RW5008]: something that must hold does not\n  help: chains that wait or are parked are between two states; see `rootward error RW5008`",
            );
        }
    }
    code_of(response)
}

fn code_of(response: &v1::VerifyResponse) -> ExitCode {
    let failed: Vec<&str> = response.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
    match failed.as_slice() {
        [] if response.is_ok => ExitCode::SUCCESS,
        ["peers"] => ExitCode::from(exit::PARTIAL),
        _ => ExitCode::from(exit::REFUSED),
    }
}

fn check_json(check: &v1::Check) -> serde_json::Value {
    json!({"name": check.name, "ok": check.is_ok, "finding": check.finding, "examples": check.examples})
}

fn text_of(response: &v1::VerifyResponse) -> String {
    let width = response.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in &response.checks {
        let name = check.name.replace('_', " ");
        let finding = if check.is_ok { check.finding.clone() } else { "FAILED".to_owned() };
        lines.push(format!("{name:<width$}  {finding}"));
        lines.extend(check.examples.iter().map(|example| format!("{:<width$}    {example}", "")));
    }
    lines.push(if response.is_ok { "OK" } else { "NOT OK" }.to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, is_ok: bool) -> v1::Check {
        let examples = if is_ok { vec![] } else { vec!["peer p2: row 7".to_owned()] };
        v1::Check { name: name.into(), is_ok, finding: "3 of 3".into(), examples }
    }

    fn response(checks: Vec<v1::Check>) -> v1::VerifyResponse {
        v1::VerifyResponse { is_ok: checks.iter().all(|check| check.is_ok), checks }
    }

    #[test]
    fn checks_stand_under_each_other_with_examples_of_what_is_wrong() {
        let good = response(vec![check("money_is_conserved", true), check("peers", true)]);
        assert_eq!(text_of(&good), "money is conserved  3 of 3\npeers               3 of 3\nOK");
        let bad = response(vec![check("placement", false)]);
        assert_eq!(text_of(&bad), "placement  FAILED\n             peer p2: row 7\nNOT OK");
    }

    #[test]
    fn a_peer_that_is_away_is_partial_and_anything_else_is_a_failure() {
        let code = |checks| format!("{:?}", code_of(&response(checks)));
        assert_eq!(code(vec![check("peers", true)]), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(vec![check("peers", false), check("chains", true)]), format!("{:?}", ExitCode::from(exit::PARTIAL)));
        assert_eq!(code(vec![check("peers", false), check("chains", false)]), format!("{:?}", ExitCode::from(exit::REFUSED)));
    }

    #[test]
    fn a_check_for_programs_keeps_its_form() {
        assert_eq!(check_json(&check("peers", true)).to_string(), r#"{"examples":[],"finding":"3 of 3","name":"peers","ok":true}"#);
    }
}

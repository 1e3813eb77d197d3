//! `[stage.X]`: a table on every node into which anybody may insert rows; each is sent to its owner as a transaction or a chain.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

use crate::codes;
use crate::containment::quoted;
use crate::definition::{Column, Schema};
use crate::finding::{Finding, Located};
use crate::manifest::{self, Entry};
use crate::nearest::did_you_mean;

/// What our own columns of a staging table begin with.
const PREFIX: &str = "stage_";

/// `[stage.X]` as it was written.
#[derive(Debug, Clone)]
pub struct StageSource {
    /// The table's name, in namespace `stage`.
    pub name: Located<String>,
    /// The transaction or chain that each row becomes.
    pub call: Located<String>,
}

/// A staging table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The table's name, in namespace `stage`.
    pub name: String,
    /// The transaction or chain that each row becomes.
    pub call: String,
    /// Whether that is a chain.
    pub is_chain: bool,
    /// Its parameters, which are the table's columns.
    pub parameters: Vec<Column>,
}

/// Reads `[stage.X]`.
pub(crate) fn parse(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<StageSource> {
    let mut call = None;
    for setting in manifest::sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "call" => call = manifest::string(&setting, findings),
            _ => manifest::unknown(&setting.key, &["call"], &format!("stage.{}", entry.key.value), findings),
        }
    }
    if call.is_none() {
        manifest::missing(entry, "call", "name a transaction or a chain: `call = \"add_location\"`", findings);
    }
    Some(StageSource { name: entry.key.clone(), call: call? })
}

/// The staging tables with their columns.
pub(crate) fn compile(sources: &[StageSource], schema: &Schema, findings: &mut Vec<Finding>) -> Vec<Stage> {
    let mut stages = Vec::new();
    for StageSource { name, call } in sources {
        let transaction = schema.transactions.get(&call.value).map(|transaction| &transaction.parameters);
        let chain = schema.chains.get(&call.value).map(|chain| &chain.parameters);
        let Some(parameters) = transaction.or(chain) else {
            let known: Vec<&str> = schema.transactions.keys().chain(schema.chains.keys()).map(String::as_str).collect();
            let help = did_you_mean(&call.value, known, "declare it");
            let message = format!("there is neither a transaction nor a chain `{}`", call.value);
            findings.push(Finding::error(codes::STAGE, &call.place, message).help(help));
            continue;
        };
        if let Some(column) = parameters.iter().find(|column| column.name.starts_with(PREFIX)) {
            let message = format!("parameter `{}` of `{}` has the name of one of our columns", column.name, call.value);
            findings.push(Finding::error(codes::STAGE, &call.place, message).help(format!("give it a name without `{PREFIX}` in front")));
            continue;
        }
        stages.push(Stage {
            name: name.value.clone(),
            call: call.value.clone(),
            is_chain: transaction.is_none(),
            parameters: parameters.clone(),
        });
    }
    stages
}

impl Stage {
    /// The table's full name as SQL.
    pub fn table(&self) -> String {
        format!("stage.{}", quoted(&self.name))
    }
}

/// Makes the staging tables. Who may stage may fill in the parameters and nothing else, and change nothing.
pub(crate) fn stages_sql(sql: &mut String, schema: &Schema) {
    for stage in &schema.stages {
        let table = stage.table();
        let _ = write!(
            sql,
            "create table if not exists {table} (\n\
               stage_id uuid primary key default gen_random_uuid(),\n\
               stage_at timestamptz not null default clock_timestamp(),\n\
               stage_state text not null default 'staged' check (stage_state in ('staged', 'done', 'refused')),\n\
               stage_round integer not null default 0,\n\
               stage_issued_at timestamptz,\n\
               stage_attempts integer not null default 0,\n\
               stage_next_attempt_at timestamptz not null default '-infinity',\n\
               stage_code text,\n\
               stage_message text,\n\
               stage_settled_at timestamptz);\n"
        );
        for column in &stage.parameters {
            let _ = writeln!(sql, "alter table {table} add column if not exists {} {};", quoted(&column.name), column.r#type.name());
        }
        let columns: Vec<String> = stage.parameters.iter().map(|column| quoted(&column.name)).collect();
        let index = quoted(&format!("{}_staged", stage.name));
        let _ = write!(
            sql,
            "create index if not exists {index} on {table} (stage_next_attempt_at, stage_at) where stage_state = 'staged';\n\
             create or replace trigger staged after insert on {table} for each statement execute function rootward.tell_staged();\n\
             alter table {table} owner to rootward_system;\n\
             revoke all on {table} from public, rootward_stager;\n\
             grant select on {table} to rootward_stager;\n"
        );
        if !columns.is_empty() {
            let _ = writeln!(sql, "grant insert (stage_id, {}) on {table} to rootward_stager;", columns.join(", "));
        }
    }
}

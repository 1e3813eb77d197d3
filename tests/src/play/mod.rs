//! Every chain of every example, played: with its steps sent twice, with workers killed around its commits, with each step
//! refused in turn. What each harness expects is read from the definition, and what took effect with plain SQL.

mod crash;
mod effects;
mod program;
mod refuse;
mod stage;
mod twice;

use anyhow::{Context as _, Result};
use rootward_proto::{
    Fault,
    v1::{self, RetryClass},
};
use rootward_schema::{OnFailure, Wait};
use uuid::Uuid;

pub use crash::{Crash, crash_chain, crash_example};
pub use effects::{check_effects_of, effects};
pub use program::{Program, Report, run_program};
pub use refuse::refuse_each_step;
pub use stage::{Example, Stage};
pub use twice::each_step_twice;

use crate::{client::Client, commands::start, wait::until};

/// A chain with its input, and where each of its tasks runs.
#[derive(Debug, Clone)]
pub struct Play {
    /// The chain's name.
    pub chain: String,
    /// Its input.
    pub input: Vec<(String, String)>,
    /// Its steps that call a transaction, each element by itself, in order.
    pub parts: Vec<Part>,
    /// What it waits for: the steps' names, and what their signals carry.
    pub signals: Vec<(String, Vec<(String, String)>)>,
    /// It may be late when its cluster is disturbed.
    pub is_hasty: bool,
}

/// One task of a chain.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its step's place, from 0.
    pub step: u32,
    /// Its element, from 0.
    pub element: u32,
    /// Its step's name.
    pub name: String,
    /// What it calls.
    pub transaction: String,
    /// What undoes it.
    pub undo: Option<String>,
    /// Its root.
    pub root: (String, i64),
    /// Where that lies.
    pub peer: String,
    /// The arguments of its transaction; none if they hang on what an earlier step answers.
    pub arguments: Option<Vec<(String, String)>>,
    /// The arguments of what undoes it, likewise.
    pub undo_arguments: Option<Vec<(String, String)>>,
    /// What its refusal does.
    pub on_failure: OnFailure,
    /// A refusal only parks, whatever the step says.
    pub is_behind_pivot: bool,
    /// The steps that are done before it begins.
    pub after: Vec<u32>,
}

/// How a chain that was played came to a stand.
#[derive(Debug)]
pub enum Played {
    /// Its first step was refused: there is no chain.
    Refused(Fault),
    /// It has ended, or waits for a person.
    Still(Box<v1::Chain>),
}

impl Played {
    /// The status, `refused` if there is no chain.
    pub fn status(&self) -> &str {
        match self {
            Played::Refused(_) => "refused",
            Played::Still(chain) => &chain.status,
        }
    }
}

impl Play {
    /// The start of it.
    pub fn start(&self, id: Uuid) -> v1::StartChainRequest {
        let input: Vec<(&str, &str)> = self.input.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        start(&self.chain, &input, id)
    }

    /// Starts it, again and again with the same id, gives it its signals, and waits until it comes to a stand.
    ///
    /// # Errors
    /// If it doesn't, with what it does instead.
    pub async fn run(&self, client: &Client, id: Uuid) -> Result<Played> {
        let started = until("a chain is started", async || match client.start(self.start(id)).await {
            Ok(_) => Some(None),
            Err(fault) if fault.retry_class() == RetryClass::Refused => Some(Some(fault)),
            Err(_) => None,
        });
        if let Some(fault) = started.await? {
            return Ok(Played::Refused(fault));
        }
        for (step, payload) in &self.signals {
            let payload: Vec<(&str, &str)> = payload.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            // It may have ended before the signal comes.
            let sent = until("a chain takes its signal", async || match client.signal(id, step, &payload).await {
                Ok(_) => Some(()),
                Err(fault) if ["RW4003", "RW4005", "RW4010"].contains(&fault.code()) => Some(()),
                Err(_) => None,
            });
            sent.await?;
        }
        self.wait_for_stand(client, id).await.map(|chain| Played::Still(Box::new(chain)))
    }

    /// Waits until the chain has ended or waits for a person.
    ///
    /// # Errors
    /// If it doesn't, with what it does instead.
    pub async fn wait_for_stand(&self, client: &Client, id: Uuid) -> Result<v1::Chain> {
        const STILL: [&str; 7] = ["completed", "failed", "compensated", "cancelled", "abandoned", "parked", "stuck"];
        client.wait_for(id, &STILL).await.with_context(|| format!("chain {} {id} with {:?}", self.chain, self.input))
    }

    /// Whether a refusal of this task leaves the chain to a person.
    pub fn parks(&self, part: &Part) -> bool {
        part.is_behind_pivot || part.on_failure == OnFailure::Park
    }
}

/// What a signal of this declaration may carry.
fn payload_of(wait: &Wait) -> Option<Vec<(String, String)>> {
    match wait {
        Wait::Signal { payload, .. } => Some(payload.iter().map(|column| (column.name.clone(), "5".to_owned())).collect()),
        Wait::Timer { .. } => None,
    }
}

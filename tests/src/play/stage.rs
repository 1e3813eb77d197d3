//! A cluster of an example, and the roots that its chains are played on.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail};
use rootward_schema::{Expression, Step, Target, Wait};

use super::{Part, Play, payload_of};
use crate::{
    client::Client,
    cluster::{Cluster, Shape},
    goods::order_lines,
    invariants::{Violation, check_bank, check_everything},
    workflow::check_workflow,
};

/// One of the examples that has chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Example {
    /// Transfers.
    Bank,
    /// Orders.
    Shop,
    /// Chains that wait, run side by side, retry.
    Workflow,
}

impl Example {
    /// All of them.
    pub const ALL: [Example; 3] = [Example::Bank, Example::Shop, Example::Workflow];
}

/// A cluster of an example with at least the peers `p1` and `p2`.
pub struct Stage {
    /// Which example.
    pub example: Example,
    /// The cluster.
    pub cluster: Cluster,
    /// Its client.
    pub client: Client,
    /// The shop's products and customer: two products on `p1`, the rest on `p2`.
    goods: Option<(Vec<i64>, i64)>,
}

impl Stage {
    /// Starts a cluster of this shape.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn start(exe: &Path, example: Example, shape: Shape) -> Result<Stage> {
        let cluster = match example {
            Example::Bank => Cluster::bank(exe, shape).await?,
            Example::Shop => Cluster::shop(exe, shape).await?,
            Example::Workflow => Cluster::workflow(exe, shape).await?,
        };
        let client = cluster.client()?;
        let goods = match example {
            Example::Shop => Some(cluster.stock(&client, ["p1", "p2"], 100_000).await?),
            Example::Bank | Example::Workflow => None,
        };
        super::refuse::arm(&cluster, example).await?;
        Ok(Stage { example, cluster, client, goods })
    }

    /// The chains of the example that come to an end in seconds.
    pub fn chains(&self) -> Vec<String> {
        let is_short = |chain: &rootward_schema::Chain| {
            let is_long = |step: &Step| matches!(step.wait, Some(Wait::Timer { after_ms }) if after_ms > 10_000);
            !chain.steps.iter().any(|step| is_long(step) || step.retry.initial_ms > 10_000)
        };
        self.cluster.schema.chains.values().filter(|chain| is_short(chain)).map(|chain| chain.name.clone()).collect()
    }

    /// A play of a chain on fresh roots; those of step `away` lie on `p2`, the others on `p1`, as far as that can be.
    ///
    /// # Errors
    /// If the roots can't be made.
    pub async fn play(&self, chain: &str, away: usize) -> Result<Play> {
        let definition = &self.cluster.schema.chains[chain];
        let away_parameter = definition.steps.get(away).and_then(|step| match &step.root_key {
            Expression::Parameter(name) => Some(name.clone()),
            _ => None,
        });
        let mut input = Vec::new();
        for parameter in &definition.parameters {
            let peer = if Some(&parameter.name) == away_parameter.as_ref() { "p2" } else { "p1" };
            let value = match (self.example, parameter.name.as_str()) {
                (Example::Bank, "amount") => "1".to_owned(),
                (Example::Bank, _) => self.cluster.open_accounts(&self.client, peer, 1, 1000).await?[0].to_string(),
                (Example::Workflow, _) => self.cluster.add_items(&self.client, &[peer]).await?.remove(0),
                (Example::Shop, name) => match (&self.goods, name) {
                    (Some((products, _)), "lines") => order_lines(products, &[1, 1, 1]),
                    (Some((_, customer)), "customer_id") => customer.to_string(),
                    _ => bail!("the shop has nothing to give for `{name}`"),
                },
            };
            input.push((parameter.name.clone(), value));
        }
        let by_name: BTreeMap<&str, &str> = input.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut parts = Vec::new();
        let mut signals = Vec::new();
        for (at, step) in definition.steps.iter().enumerate() {
            if let Some(wait) = &step.wait {
                signals.extend(payload_of(wait).map(|payload| (step.name.clone(), payload)));
                continue;
            }
            let lines = match &step.for_each {
                Some(Expression::Parameter(name)) => serde_json::from_str::<Vec<serde_json::Value>>(by_name[name.as_str()])?,
                _ => vec![serde_json::Value::Null],
            };
            for (element, line) in lines.iter().enumerate() {
                parts.push(self.part(definition, at, (element, line), &by_name)?);
            }
        }
        let is_hasty = definition.deadline_ms.is_some()
            || definition.steps.iter().any(|step| matches!(&step.wait, Some(Wait::Signal { timeout_ms: Some(ms), .. }) if *ms < 10_000));
        Ok(Play { chain: chain.to_owned(), input, parts, signals, is_hasty })
    }

    fn part(
        &self,
        definition: &rootward_schema::Chain,
        at: usize,
        (element, line): (usize, &serde_json::Value),
        input: &BTreeMap<&str, &str>,
    ) -> Result<Part> {
        let step = &definition.steps[at];
        let value = |expression: &Expression| match expression {
            Expression::Literal(text) => Some(text.clone()),
            Expression::Parameter(name) => input.get(name.as_str()).map(|value| (*value).to_owned()),
            Expression::Element(Some(field)) => {
                line.get(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            }
            Expression::Element(None) | Expression::StepResult { .. } => None,
        };
        let Some(key) = value(&step.root_key).and_then(|key| key.parse::<i64>().ok()) else { bail!("`{}` has no root", step.name) };
        let of = |call: &str, args: &BTreeMap<String, Expression>| -> Option<Vec<(String, String)>> {
            let transaction = &self.cluster.schema.transactions[call];
            let arguments = transaction.parameters.iter().map(|column| {
                let is_key = matches!(&transaction.target, Target::Root { parameter, .. } if *parameter == column.name);
                let given = if is_key { Some(key.to_string()) } else { args.get(&column.name).and_then(value) };
                given.map(|text| (column.name.clone(), text))
            });
            arguments.collect()
        };
        let undo_arguments = step.compensate.as_ref().and_then(|compensation| of(&compensation.call, &compensation.args));
        let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Ok(Part {
            step: number(at),
            element: number(element),
            name: step.name.clone(),
            transaction: step.call.clone(),
            undo: step.compensate.as_ref().map(|compensation| compensation.call.clone()),
            root: (step.entity.clone(), key),
            peer: self.cluster.owner_of(&step.entity, key).to_owned(),
            arguments: of(&step.call, &step.args),
            undo_arguments,
            on_failure: step.on_failure,
            is_behind_pivot: definition.steps[..at].iter().any(|earlier| earlier.is_pivot),
            after: step.after.clone().unwrap_or_else(|| at.checked_sub(1).map(number).into_iter().collect()),
        })
    }

    /// Everything that must hold when nothing is under way.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub async fn check(&self) -> Result<(), Violation> {
        match self.example {
            Example::Bank => check_bank(&self.cluster).await,
            Example::Shop => check_everything(&self.cluster).await,
            Example::Workflow => check_workflow(&self.cluster).await,
        }
    }
}

//! The baselines: pgbench with the same transaction on the same tables and rows, without us.

use std::path::PathBuf;

use rootward_cluster::{Pgbench, PgbenchResult, PgbenchRun, Pgbouncer};
use tokio::time::{Duration, interval};

use super::{
    closed_loop::{Sample, Span},
    ground::Ground,
    live::Live,
    script::{Style, script},
    workload::{Draws, Shape},
};

/// What Rootward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// A statement a round trip.
    Statement,
    /// A transaction a round trip.
    Pipelined,
    /// A statement a round trip through pgbouncer.
    Pgbouncer,
}

impl Baseline {
    /// Those without another program between.
    pub(crate) const DIRECT: &[Baseline] = &[Baseline::Statement, Baseline::Pipelined];

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Baseline::Statement => "statement",
            Baseline::Pipelined => "pipelined",
            Baseline::Pgbouncer => "pgbouncer",
        }
    }

    /// The baseline of that name.
    ///
    /// # Errors
    /// For people: what there is.
    pub(crate) fn parse(text: &str) -> Result<Baseline, String> {
        let known = [Baseline::Statement, Baseline::Pipelined, Baseline::Pgbouncer];
        known.into_iter().find(|baseline| baseline.name() == text).ok_or_else(|| match text {
            "2pc" => "two-phase commit is for transfers between two roots: `rootward bench chains` compares with it".to_owned(),
            _ => "there are `statement`, `pipelined` and `pgbouncer`, several separated by commas".to_owned(),
        })
    }
}

/// The programs of the baselines.
#[derive(Debug)]
pub(super) struct Baselines {
    program: PathBuf,
    bouncer: Option<Pgbouncer>,
    pub all: Vec<Baseline>,
    /// What was asked for and is not there.
    pub missing: Vec<String>,
}

impl Baselines {
    /// Looks for the programs, and starts pgbouncer if it is wanted and there.
    pub(super) async fn start(wanted: &[Baseline], ground: &Ground, most_clients: usize) -> anyhow::Result<Baselines> {
        let mut baselines = Baselines { program: PathBuf::new(), bouncer: None, all: wanted.to_vec(), missing: Vec::new() };
        if !wanted.is_empty() {
            baselines.program = Pgbench::find()?;
        }
        if wanted.contains(&Baseline::Pgbouncer) {
            if let Some(program) = Pgbouncer::find() {
                let bouncer = Pgbouncer::start(ground.cluster.launcher(), &program, database(ground)?, most_clients).await?;
                baselines.bouncer = Some(bouncer);
            } else {
                baselines.all.retain(|baseline| *baseline != Baseline::Pgbouncer);
                baselines.missing.push("pgbouncer is not installed: no figure beside it".to_owned());
            }
        }
        Ok(baselines)
    }

    /// One run of one baseline.
    pub(super) async fn run(
        &self,
        baseline: Baseline,
        ground: &Ground,
        shape: &Shape,
        load: (usize, Option<f64>),
        span: Span,
        live: &mut Live,
    ) -> anyhow::Result<Sample> {
        let Some(transaction) = ground.schema.transactions.get(shape.transaction) else {
            anyhow::bail!("there is no transaction `{}`", shape.transaction)
        };
        let (style, database, protocol) = match (baseline, &self.bouncer) {
            (Baseline::Pgbouncer, Some(bouncer)) => (Style::Statement, bouncer.database(), bouncer.protocol()),
            (Baseline::Pipelined, _) => (Style::Pipeline, database(ground)?, "prepared"),
            _ => (Style::Statement, database(ground)?, "prepared"),
        };
        let run = PgbenchRun {
            program: self.program.clone(),
            database: database.to_owned(),
            script: script(transaction, shape, ground.workload.roots, style),
            protocol,
            clients: load.0,
            warm: span.warm,
            measured: span.measured,
            rate: load.1,
            scale: if let Draws::Script(script) = &shape.draws { Some(script.scale) } else { None },
        };
        let pgbench = Pgbench::start(ground.cluster.launcher(), run).await?;
        let mut second = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                result = pgbench.finish() => return Ok(sample(result?)),
                _ = second.tick() => live.show(pgbench.reported()),
            }
        }
    }

    /// How each is run, for people.
    pub(super) fn settings(&self, is_script: bool) -> Vec<(&'static str, String)> {
        let common = "pgbench on its own over the unix socket, as superuser, whom row security lets through, -j 2, -l; \
                      no outcomes are stored, row counts are not looked at";
        let mut settings = Vec::new();
        for baseline in &self.all {
            let text = match (baseline, &self.bouncer) {
                (Baseline::Statement, _) if is_script => format!("{common}; -M prepared, the file as it is"),
                (Baseline::Statement, _) => {
                    format!("{common}; -M prepared, BEGIN, the transaction's statements, COMMIT, each a round trip")
                }
                (Baseline::Pipelined, _) => {
                    "the same, the statements between \\startpipeline and \\endpipeline: one round trip, committed by its Sync".to_owned()
                }
                (Baseline::Pgbouncer, Some(bouncer)) => {
                    format!("the same as statement with -M {} through pgbouncer {}", bouncer.protocol(), bouncer.settings())
                }
                (Baseline::Pgbouncer, None) => continue,
            };
            settings.push((baseline.name(), text));
        }
        settings
    }
}

fn database(ground: &Ground) -> anyhow::Result<&str> {
    match ground.databases.as_slice() {
        [only] => Ok(only),
        _ => anyhow::bail!("a baseline needs all roots in one database"),
    }
}

fn sample(result: PgbenchResult) -> Sample {
    Sample { done: result.processed, latencies_us: result.latencies_us, per_second: Some(result.per_second), ..Sample::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_have_names() {
        for baseline in [Baseline::Statement, Baseline::Pipelined, Baseline::Pgbouncer] {
            assert_eq!(Baseline::parse(baseline.name()), Ok(baseline));
        }
        assert!(Baseline::parse("2pc").expect_err("for chains").contains("bench chains"));
        assert!(Baseline::parse("pipeline").expect_err("unknown").contains("`pipelined`"));
    }
}

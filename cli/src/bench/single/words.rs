//! What a run says of itself: settings, table, curves.

use super::{Bench, Side};
use crate::{
    bench::{memory::Memory, page::Chart, workload::Draws},
    output,
};

/// What is printed of each server.
const PRINTED: &[&str] = &[
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
];

impl Bench {
    pub(super) async fn settings(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut servers = Vec::new();
        for name in PRINTED {
            servers.push(format!("{name} {}", self.ground.gauge.setting(name).await?));
        }
        let options = &self.options;
        let workload = &self.ground.workload;
        let script = if let Draws::Script(script) = &workload.main.draws { Some(script) } else { None };
        let load = match options.rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!("{rate} transactions a second at random moments fixed in advance, latency from the moment on"),
        };
        let mut settings = vec![
            (
                "cluster",
                format!(
                    "a hub and {} {}, each with a PostgreSQL server and a worker of its own, one router, {}, analyzed, all on this machine",
                    options.peers,
                    if options.peers == 1 { "peer" } else { "peers" },
                    if workload.roots > 0 { format!("{} roots", workload.roots) } else { "roots of --setup".to_owned() }
                ),
            ),
            ("servers", servers.join(", ")),
            (
                "load",
                format!(
                    "{load}, all sides in turns, {} rounds of {} each after {} of warm-up, medians; transaction `{}`{}",
                    options.rounds,
                    humantime::format_duration(options.duration),
                    humantime::format_duration(options.span().warm),
                    workload.main.transaction,
                    if script.is_some() { "" } else { " at a random root" }
                ),
            ),
            (
                "rootward",
                format!("the Rust client, {} connections to the router for all clients; outcomes and row security on", options.connections),
            ),
        ];
        if let Some(script) = script {
            let transaction = self.ground.schema.transactions.get(workload.main.transaction);
            let is_set_wise = transaction.is_some_and(|transaction| transaction.set_wise.is_some());
            let manner = if is_set_wise { "set-wise" } else { "row by row: lanes can't prove that many at once do the same" };
            settings.push(("script", format!("{}, scale {}; lanes run it {manner}", script.file, script.scale)));
        }
        settings.extend(self.baselines.settings(script.is_some()));
        Ok(settings)
    }

    pub(super) fn table(&self) -> String {
        let figures = &self.figures;
        let us = |name: String| output::duration(figures.median(&name) as u64);
        let spread = |name: &str| figures.series(name).map(|one| format!("{:.0} to {:.0}", one.low(), one.high())).unwrap_or_default();
        let mut rows = Vec::new();
        for clients in &self.options.clients {
            for side in self.sides() {
                let (name, prefix) = (side.name(), side.prefix());
                let tps = format!("{prefix}tps_{clients}");
                let ratio = figures.series(&format!("ratio_vs_{name}_{clients}")).map(|one| format!("{:.2}", one.median()));
                rows.push(vec![
                    clients.to_string(),
                    name.to_owned(),
                    format!("{:.0}", figures.median(&tps)),
                    spread(&tps),
                    ratio.unwrap_or_default(),
                    us(format!("{prefix}p50_us_{clients}")),
                    us(format!("{prefix}p99_us_{clients}")),
                ]);
            }
        }
        let mut text = output::table(&["CLIENTS", "SIDE", "TX/S", "(LOW TO HIGH)", "ROOTWARD IS", "P50", "P99"], &rows);
        let greatest = self.options.greatest();
        for side in self.sides() {
            text += &match side {
                Side::Rootward => format!(
                    "\n\nprocessor time a transaction with {greatest} clients: router {:.1} us, workers {:.1} us, PostgreSQL {:.1} us, clients {:.1} us; {:.0} bytes of WAL",
                    figures.median("router_cpu_us"),
                    figures.median("worker_cpu_us"),
                    figures.median("postgres_cpu_us"),
                    figures.median("client_cpu_us"),
                    figures.median("wal_bytes_per_tx")
                ),
                Side::Direct(baseline) => format!(
                    "\n  {}: PostgreSQL {:.1} us, pgbench {:.1} us; {:.0} bytes of WAL",
                    baseline.name(),
                    figures.median(&format!("{}_postgres_cpu_us", baseline.name())),
                    figures.median(&format!("{}_client_cpu_us", baseline.name())),
                    figures.median(&format!("{}_wal_bytes_per_tx", baseline.name()))
                ),
            };
        }
        let rows_name = format!("ratio_vs_statement_rows_{greatest}");
        if let (Some(ratio), Some(shape)) = (figures.series(&rows_name), &self.ground.workload.by_rows) {
            text += &format!(
                "\nrow by row (`{}`, which calls a function of the schema), {greatest} clients: {:.0} tx/s beside {:.0}: {:.2} times statement",
                shape.transaction,
                figures.median(&format!("rows_tps_{greatest}")),
                figures.median(&format!("statement_rows_tps_{greatest}")),
                ratio.median()
            );
        }
        if let Some(ratio) = figures.series("latency_ratio_1") {
            text += &format!("\none client: {:.2} times as long as one pipeline (p50)", ratio.median());
        }
        if self.options.memory_for.is_some() {
            text += &Memory::table(figures);
        }
        if let Some(kill) = &self.options.kill {
            text += &format!(
                "\n{}: {:.0} tx/s over the whole time, nobody was answered for {:.0} ms",
                kill.what(),
                figures.median("kill_tps"),
                figures.median("kill_longest_pause_ms")
            );
        }
        for clients in &self.options.clients {
            text +=
                &format!("\nWAL flushes with {clients} clients: {:.3} a transaction", figures.median(&format!("flushes_per_tx_{clients}")));
        }
        text
    }

    pub(super) fn charts(&self) -> Vec<Chart> {
        let chart = |title, unit, name: &str, scale| {
            let sides: Vec<(&str, String)> =
                self.sides().into_iter().map(|side| (side.name(), format!("{}{name}", side.prefix()))).collect();
            Chart::of(title, unit, &self.figures, &self.options.clients, &sides, scale)
        };
        vec![
            chart("Throughput", "transactions/s", "tps_", 1.0),
            chart("Latency, median", "ms", "p50_us_", 1_000.0),
            chart("Latency, 99 of 100", "ms", "p99_us_", 1_000.0),
        ]
    }
}

//! Processor time and memory of the parts of a cluster.

use rootward_cluster::{EmbeddedCluster, ProcessorTime, resident_bytes};

/// Which processes are which part.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    router: u32,
    workers: Vec<u32>,
    postmasters: Vec<u32>,
}

/// What each part has used up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub router: ProcessorTime,
    pub workers: ProcessorTime,
    /// All servers with all their processes, autovacuum and checkpoints included.
    pub postgres: ProcessorTime,
    /// Ourselves: the load's clients.
    pub client: ProcessorTime,
    /// Ourselves and the children that have ended: pgbench among them.
    pub with_children: ProcessorTime,
}

/// What was used between two moments, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    pub router: f64,
    pub workers: f64,
    pub postgres: f64,
    pub client: f64,
    pub children: f64,
}

impl Meter {
    /// The processes of the moment; a part that is killed and started again is another one.
    pub(super) fn of(cluster: &EmbeddedCluster) -> Meter {
        let ids: Vec<&str> = cluster.topology().nodes().map(|(id, _)| id).collect();
        Meter {
            router: cluster.router_pid().unwrap_or_default(),
            workers: ids.iter().filter_map(|id| cluster.worker_pid(id)).collect(),
            postmasters: ids.iter().filter_map(|id| cluster.server(id)?.pid()).collect(),
        }
    }

    pub(super) fn read(&self) -> Reading {
        let ourselves = std::process::id();
        Reading {
            router: ProcessorTime::of_alone(self.router),
            workers: self.workers.iter().map(|pid| ProcessorTime::of_alone(*pid)).sum(),
            postgres: self.postmasters.iter().map(|pid| ProcessorTime::of_family(*pid)).sum(),
            client: ProcessorTime::of_alone(ourselves),
            with_children: ProcessorTime::of(ourselves),
        }
    }

    /// Memory of the router and of the largest worker, in MiB.
    pub(super) fn memory_mib(&self) -> (f64, f64) {
        let mib = |pid: u32| resident_bytes(pid) as f64 / (1 << 20) as f64;
        (mib(self.router), self.workers.iter().copied().map(mib).fold(0.0, f64::max))
    }
}

impl Reading {
    pub(super) fn since(&self, earlier: &Reading) -> Used {
        let client = self.client.since(earlier.client);
        Used {
            router: self.router.since(earlier.router),
            workers: self.workers.since(earlier.workers),
            postgres: self.postgres.since(earlier.postgres),
            client,
            children: self.with_children.since(earlier.with_children) - client,
        }
    }
}

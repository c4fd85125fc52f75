//! The rows: the ways through the stack that are measured beside each other. Each has processes of its own, so that no row
//! pays for what another left behind.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::Failure;
use crate::conversation::Api;
use crate::processes::{self, Process, RunDirectory, Store, Used};
use crate::redis;

/// What this process itself has used.
static HARNESS: LazyLock<Used> = LazyLock::new(Used::default);

/// A way from the client to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// No Envoy: the client asks the backend.
    Direct,
    /// Envoy without processor.
    Envoy,
    /// Envoy with the processor that changes nothing: the floor of any ext_proc product.
    Noop,
    /// The router, responses in memory.
    Memory,
    /// The router, responses in a file.
    Disk,
    /// The router with one Redis.
    Redis,
    /// The router with a Redis Cluster of three masters and three replicas.
    Cluster,
}

impl Kind {
    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Envoy => "Envoy alone",
            Self::Noop => "noop (floor)",
            Self::Memory => "router, memory",
            Self::Disk => "router, disk",
            Self::Redis => "router, one Redis",
            Self::Cluster => "router, cluster",
        }
    }

    pub(crate) fn has_processor(self) -> bool {
        !matches!(self, Self::Direct | Self::Envoy)
    }

    pub(crate) fn has_redis(self) -> bool {
        matches!(self, Self::Redis | Self::Cluster)
    }

    pub(crate) fn api(self) -> Api {
        match self {
            Self::Direct | Self::Envoy => Api::Chat,
            Self::Noop => Api::Untranslated,
            Self::Memory | Self::Disk | Self::Redis | Self::Cluster => Api::Responses,
        }
    }
}

/// A way through the stack with the processes that make it.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    /// Where the client sends its requests.
    pub(crate) targets: Vec<SocketAddr>,
    envoys: Vec<Process>,
    processors: Vec<Process>,
    redis: Vec<Process>,
}

/// Processor time by process, and that of client and backend, which are this program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) envoy: Duration,
    pub(crate) processor: Duration,
    pub(crate) redis: Duration,
    pub(crate) harness: Duration,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            envoy: self.envoy.saturating_sub(earlier.envoy),
            processor: self.processor.saturating_sub(earlier.processor),
            redis: self.redis.saturating_sub(earlier.redis),
            harness: self.harness.saturating_sub(earlier.harness),
        }
    }
}

/// Resident memory in KiB by process; of several of a kind their sum.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Resident {
    pub(crate) envoy: u64,
    pub(crate) processor: u64,
    pub(crate) redis: u64,
}

impl Row {
    /// Starts what the row needs: `routers` processors that share its store, each behind an Envoy of its own.
    pub(crate) async fn start(
        directory: &RunDirectory,
        kind: Kind,
        upstream: SocketAddr,
        threads: usize,
        routers: usize,
    ) -> Result<Self, Failure> {
        let mut row = Self { kind, targets: Vec::new(), envoys: Vec::new(), processors: Vec::new(), redis: Vec::new() };
        let store = match kind {
            Kind::Direct => {
                row.targets.push(upstream);
                return Ok(row);
            }
            Kind::Envoy | Kind::Noop | Kind::Memory => Store::Memory,
            Kind::Disk => Store::Disk,
            Kind::Redis => {
                let (server, address) = redis::start_one(directory).await?;
                row.redis.push(server);
                Store::Redis(address)
            }
            Kind::Cluster => {
                let (nodes, addresses) = redis::start_cluster(directory).await?;
                row.redis = nodes;
                Store::Cluster(addresses)
            }
        };
        for _ in 0..routers {
            let [listen, processor] = processes::free_addresses()?;
            row.processors.extend(match kind {
                Kind::Direct | Kind::Envoy => None,
                Kind::Noop => Some(processes::start_noop(directory, processor, threads).await?),
                Kind::Memory | Kind::Disk | Kind::Redis | Kind::Cluster => {
                    Some(processes::start_router(directory, processor, &store, threads).await?)
                }
            });
            row.envoys.push(processes::start_envoy(directory, listen, upstream, processor).await?);
            row.targets.push(listen);
        }
        Ok(row)
    }

    pub(crate) fn cpu(&self) -> Result<Cpu, Failure> {
        let sum = |all: &[Process]| all.iter().map(Process::cpu).sum::<Result<Duration, Failure>>();
        Ok(Cpu {
            envoy: sum(&self.envoys)?,
            processor: sum(&self.processors)?,
            redis: sum(&self.redis)?,
            harness: HARNESS.by("self")?,
        })
    }

    pub(crate) fn resident(&self) -> Result<Resident, Failure> {
        let sum = |all: &[Process]| all.iter().map(Process::resident_kib).sum::<Result<u64, Failure>>();
        Ok(Resident { envoy: sum(&self.envoys)?, processor: sum(&self.processors)?, redis: sum(&self.redis)? })
    }
}

//! `responses-router`: config → telemetry → build → serve → drain.
//!
//! Exit codes: 0 after a stop that was asked for, 64 (`EX_USAGE`) for a bad config, 1 when starting or serving failed, or
//! when a command finds what it looks for: an unhealthy router.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use responses_router::admin::{self, Admin};
use responses_router::cli::{Args, Command, Format};
use responses_router::config::{
    self, Config, Disk, Listen, LogIds, OnStoreError, StoreBackend, Telemetry, TenantSource,
};
use responses_router::envoy_config::{self, Ours};
use responses_router::extproc::admission::Admission;
use responses_router::extproc::apart::Apart;
use responses_router::extproc::exchange::Router;
use responses_router::extproc::keeping::Keeping;
use responses_router::extproc::policy::Policy;
use responses_router::extproc::random_ids::RandomIds;
use responses_router::extproc::route::Routes;
use responses_router::extproc::tenancy::{JWT_NAMESPACE, Source, Tenancy};
use responses_router::sealing::SealingKeys;
use responses_router::server::tls::Tls;
use responses_router::server::{self, Listener, Stop, Stopped};
use responses_router::store::{
    AtRest, ChainLimits, DiskSettings, DiskStore, MemoryBounds, MemoryStore, RecordCodec, RedisStore, ResponseStore,
    redis,
};
use responses_router::telemetry::metadata::Keys;
use responses_router::telemetry::metrics::Metrics;
use responses_router::telemetry::traces::Traces;
use responses_router::telemetry::{self, Reporter};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Measured in the prototype: 8% less CPU per request than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_BAD_CONFIG: u8 = 64;

/// How long a thread for large bodies and for the disk store waits for more work. What the allocator keeps for a thread goes
/// with it.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// How long a router may take to tell its health: less than the second that Kubernetes' probes wait by default.
const PROBE: Duration = Duration::from_millis(900);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::load(args.config.as_deref(), &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_BAD_CONFIG);
        }
    };
    if let Some(Command::Health { admin, ready, grpc }) = &args.command {
        return exit(health(&config, *admin, *ready, grpc.as_ref()));
    }
    let tls = match config.server.tls.as_ref().map(Tls::read).transpose() {
        Ok(tls) => tls,
        Err(error) => {
            eprintln!("{}", with_causes(&error));
            return ExitCode::from(EXIT_BAD_CONFIG);
        }
    };
    let api = &config.response_api;
    if api.store_backend == StoreBackend::Redis
        && let Err(error) = RedisStore::check(&api.redis)
    {
        eprintln!("{}", with_causes(&error));
        return ExitCode::from(EXIT_BAD_CONFIG);
    }
    if let Some(Command::Check { envoy: Some(file), format }) = &args.command {
        return check_envoy(file, *format, &Ours::of(&config, args.config.is_some()));
    }
    if args.check || matches!(args.command, Some(Command::Check { .. })) {
        println!("the config is valid");
        return ExitCode::SUCCESS;
    }
    exit(run(&config, tls))
}

fn exit(result: Result<(), AnyError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("responses-router: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Prints what is wrong with an Envoy config.
fn check_envoy(file: &Path, format: Format, ours: &Ours) -> ExitCode {
    let read = || {
        let mut bytes = Vec::new();
        let limit = u64::try_from(envoy_config::MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let unreadable = |error: &dyn std::error::Error| {
        eprintln!("{}: {error}", file.display());
        ExitCode::from(EXIT_BAD_CONFIG)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) => return unreadable(&error),
    };
    let report = match envoy_config::check(&bytes, ours) {
        Ok(report) => report,
        Err(error) => return unreadable(&error),
    };
    match format {
        Format::Text => println!("{report}"),
        Format::Json => match serde_json::to_string_pretty(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => return unreadable(&error),
        },
    }
    if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks a running router.
fn health(config: &Config, address: Option<SocketAddr>, ready: bool, grpc: Option<&Listen>) -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(listen) = grpc {
        return Ok(runtime.block_on(server::probe::grpc(listen, PROBE))?);
    }
    let address = address.or(config.server.admin_listen).ok_or("server.admin_listen is off, so --admin or --grpc")?;
    let path = if ready { "/readyz" } else { "/healthz" };
    Ok(runtime.block_on(admin::probe::http(address, path, PROBE))?)
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn run(config: &Config, tls: Option<Tls>) -> Result<(), AnyError> {
    telemetry::log_to_stdout(&config.telemetry, redis::QUIET)?;
    let threads = match config.server.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism()?.get(),
    };
    // A single thread needs no second one to be woken, and nothing of it is stolen.
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(threads).thread_keep_alive(IDLE_THREAD).enable_all().build()?.block_on(serve(config, tls))
}

async fn serve(config: &Config, tls: Option<Tls>) -> Result<(), AnyError> {
    let store = store(config).await?;
    let mut metrics = Metrics::new(&config.telemetry.metrics_models);
    metrics.register_identity(&config.shown());
    metrics.register_store(Arc::clone(&store));
    let metrics = Arc::new(metrics);
    let traces = Traces::start(&config.telemetry.otlp, metrics.spans.clone())
        .map_err(|error| format!("telemetry.otlp.endpoint: {error}"))?;
    let stop = Stop {
        token: CancellationToken::new(),
        delay: config.server.drain_delay_seconds,
        grace: config.server.drain_seconds,
        grace_over: CancellationToken::new(),
        live: TaskTracker::new(),
    };
    let background = TaskTracker::new();
    if let Some(address) = config.server.admin_listen {
        let admin = Admin {
            store: Arc::clone(&store),
            metrics: Arc::clone(&metrics),
            config: config.shown(),
            stopping: stop.token.clone(),
        };
        let address = admin
            .serve(address, &background)
            .await
            .map_err(|error| format!("cannot listen on {address} (server.admin_listen): {error}"))?;
        tracing::info!("admin listening on {address}");
    }
    let router = Arc::new(router(config, store, metrics, traces.clone(), &stop)?);
    let mut listener = Listener::bind(&config.server.listen, config.server.socket_mode).await?;
    if let Some(tls) = tls {
        listener = listener.with_tls(Arc::new(tls));
    }
    // Before it says that it listens: whoever waits for that may also stop it at once.
    let signals = stop_signals()?;
    tracing::info!("listening on {}", listener.listen());
    if config.response_api.enabled {
        tracing::info!("Response API enabled with {} backend", config.response_api.store_backend.as_str());
    } else {
        tracing::warn!("Response API disabled by response_api.enabled: every request gets a 404");
    }

    let (stopping, drain_seconds) = (stop.token.clone(), stop.grace.as_secs());
    let serving = server::serve(listener, router, stop);
    tokio::pin!(serving);
    tokio::select! {
        stopped = &mut serving => return told(stopped),
        () = signals.0 => {}
    }
    tracing::info!(drain_seconds, "stopping: live exchanges may finish, a second signal ends at once");
    stopping.cancel();
    let ended = async {
        let stopped = serving.await;
        traces.close().await;
        stopped
    };
    tokio::select! {
        stopped = ended => told(stopped),
        () = signals.1 => {
            tracing::warn!("a second signal: ending at once");
            Ok(())
        }
    }
}

fn told(stopped: Stopped) -> Result<(), AnyError> {
    match stopped {
        Stopped::Clean => tracing::info!("stopped"),
        Stopped::GraceOver { live } => tracing::warn!(live, "stopped with exchanges cut off"),
    }
    Ok(())
}

/// The first and the second SIGTERM or SIGINT.
fn stop_signals() -> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut streams = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let (told_first, told_second) = (first.clone(), second.clone());
    let watching = async move {
        for told in [told_first, told_second] {
            tokio::select! {
                _ = streams.0.recv() => {}
                _ = streams.1.recv() => {}
            }
            told.cancel();
        }
    };
    TaskTracker::new().spawn(watching);
    Ok((first.cancelled_owned(), second.cancelled_owned()))
}

async fn store(config: &Config) -> Result<Arc<dyn ResponseStore>, AnyError> {
    let api = &config.response_api;
    let ttl = api.ttl_seconds;
    let codec = RecordCodec::new(SealingKeys::new(api.encryption.keys.clone()), api.encryption.required);
    Ok(match api.store_backend {
        StoreBackend::Memory => {
            let (max_entries, max_bytes) = (api.max_responses, api.max_memory_bytes);
            Arc::new(MemoryStore::new(MemoryBounds { max_entries, max_bytes, ttl }))
        }
        StoreBackend::Disk => Arc::new(disk(&api.disk, ttl, codec)?),
        StoreBackend::Redis => {
            let at_rest = AtRest { codec, tenant_in_key: config.tenancy.in_key };
            Arc::new(RedisStore::open(&api.redis, ttl, api.store_deadline_ms, at_rest).await?)
        }
    })
}

fn disk(disk: &Disk, ttl: Duration, codec: RecordCodec) -> Result<DiskStore, AnyError> {
    let Disk { path, max_bytes, cache_bytes } = disk.clone();
    DiskStore::open(&DiskSettings { path, max_bytes, cache_bytes, ttl, codec })
        .map_err(|error| format!("response_api.disk.path: {error}").into())
}

fn tenancy(tenancy: &config::Tenancy) -> Result<Option<Tenancy>, AnyError> {
    let source = match tenancy.source {
        TenantSource::None => return Ok(None),
        TenantSource::Header => Source::Header(tenancy.header.clone()),
        TenantSource::Metadata => {
            let config::MetadataPlace { namespace, path } = tenancy.metadata.clone();
            Source::Metadata { namespace, path }
        }
        TenantSource::JwtClaim => {
            let config::JwtClaim { payload, path } = tenancy.jwt_claim.clone();
            let path = std::iter::once(payload).chain(path).collect();
            Source::Metadata { namespace: JWT_NAMESPACE.to_owned(), path }
        }
        TenantSource::Authorization => {
            Source::Authorization(tenancy.authorization.clone().ok_or("tenancy.authorization has no key")?)
        }
    };
    Ok(Some(Tenancy { source, required: tenancy.required }))
}

fn reporter(telemetry: &Telemetry, metrics: Arc<Metrics>, traces: Traces) -> Reporter {
    let namespace = Some(&telemetry.metadata_namespace).filter(|namespace| !namespace.is_empty());
    let metadata = namespace.map(|namespace| (namespace.clone(), Keys::of(&telemetry.metadata_keys)));
    Reporter { metrics, full_ids: telemetry.log_ids == LogIds::Full, metadata, traces }
}

fn router(
    config: &Config,
    store: Arc<dyn ResponseStore>,
    metrics: Arc<Metrics>,
    traces: Traces,
    stop: &Stop,
) -> Result<Router, AnyError> {
    let Config { response_api, upstream, limits, stream, telemetry, .. } = config;
    Ok(Router {
        enabled: response_api.enabled,
        routes: Routes::new(&response_api.path_prefix),
        ids: Box::new(RandomIds::default()),
        settings: config.translation(),
        reasoning_keys: SealingKeys::new(response_api.reasoning_encryption.keys.clone()),
        tenancy: tenancy(&config.tenancy)?,
        keeping: Keeping {
            store,
            deadline: response_api.store_deadline_ms,
            tasks: stop.live.clone(),
            metrics: Arc::clone(&metrics),
        },
        admission: Arc::new(Admission::new(limits.max_live_exchanges, limits.max_buffered_bytes)),
        apart: Apart::default(),
        reporter: Arc::new(reporter(telemetry, metrics, traces)),
        policy: Policy {
            chat_path: format!("{}{}", response_api.path_prefix, upstream.chat_path).into(),
            clear_route_cache: upstream.clear_route_cache,
            max_request_bytes: limits.max_request_bytes,
            max_answer_bytes: limits.max_answer_bytes,
            chain: ChainLimits {
                max_depth: limits.max_chain_depth,
                max_bytes: limits.max_history_bytes,
                // An answer is stored when its exchange is over at the latest, and in two attempts at most.
                longest_turn: limits.exchange_seconds.saturating_add(response_api.store_deadline_ms.saturating_mul(2)),
            },
            request_body: limits.request_body_seconds,
            request_body_pace: limits.request_body_bytes_per_second,
            exchange: limits.exchange_seconds,
            heartbeat: stream.heartbeat_seconds,
            degrade_without_store: response_api.on_store_error == OnStoreError::Degrade,
        },
        grace_over: stop.grace_over.clone(),
    })
}

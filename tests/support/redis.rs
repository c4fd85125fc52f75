//! Real redis-server processes on loopback: one, or a cluster of six.
//!
//! Each runs under a shell that ends it and removes its directory as soon as the shell's standard input closes: when the
//! server is dropped, and when this process ends in whatever way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use responses_router::config::{Redis, RedisAddress};
use serde_json::{Value, json};

use super::certificates::{Authority, Certificate};

/// How long a cluster's node must be silent before the others take over.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_secs(2);

const PATIENCE: Duration = Duration::from_secs(40);

const KEEPER: &str = r#"
dir=$1; shift
redis-server "$@" >/dev/null 2>&1 &
server=$!
echo $server
if read -r keep; then remove=; else remove=$dir; fi
kill -KILL $server
# Its port is free only after that.
wait $server
if [ -n "$remove" ]; then rm -rf "$remove"; fi
"#;

/// How a server speaks TLS, and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    ca: PathBuf,
    own: Certificate,
    /// Whether clients need a certificate.
    asks_clients: bool,
}

impl Tls {
    /// With a certificate for these names.
    pub(crate) fn of(authority: &Authority, names: &[&str]) -> Self {
        Self { ca: authority.ca(), own: authority.issue(names), asks_clients: false }
    }

    /// The same, for clients with a certificate only.
    pub(crate) fn asking_clients(self) -> Self {
        Self { asks_clients: true, ..self }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let file = |path: &PathBuf| path.display().to_string();
        vec![
            ("tls-cert-file", file(&self.own.certificate)),
            ("tls-key-file", file(&self.own.key)),
            ("tls-ca-cert-file", file(&self.ca)),
            ("tls-auth-clients", if self.asks_clients { "yes" } else { "no" }.to_owned()),
            ("tls-replication", "yes".to_owned()),
        ]
    }

    /// What tells redis-cli the same.
    fn cli(&self) -> Vec<String> {
        let files = [("--cacert", &self.ca), ("--cert", &self.own.certificate), ("--key", &self.own.key)];
        let files = files.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]);
        std::iter::once("--tls".to_owned()).chain(files).collect()
    }
}

/// One redis-server.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// What redis-cli needs to be let in.
    access: Vec<String>,
    dir: PathBuf,
    settings: Vec<String>,
    keeper: Option<(Child, ChildStdin, String)>,
}

impl Server {
    /// A server that answers, with these settings of redis.conf beside ours.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let server = Self::start_at(free_port(), settings, None);
        server.wait_until_it_answers();
        server
    }

    /// The same over TLS.
    pub(crate) fn start_tls(tls: Tls, settings: &[(&str, &str)]) -> Self {
        let server = Self::start_at(free_port(), settings, Some(tls));
        server.wait_until_it_answers();
        server
    }

    /// A server that is not there yet; [`Server::restart`] starts it.
    pub(crate) fn later() -> Self {
        let mut server = Self::start(&[]);
        server.end(true);
        server
    }

    /// A Sentinel that watches over a master under this name, and lets in who knows the password.
    pub(crate) fn sentinel(name: &str, master: u16, password: &str) -> Self {
        let port = free_port();
        let dir = directory(port);
        let file = dir.join("sentinel.conf");
        let config = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nrequirepass {password}\nsentinel sentinel-pass {password}\n\
             sentinel monitor {name} 127.0.0.1 {master} 2\nsentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 5000\n",
            dir.display()
        );
        std::fs::write(&file, config).unwrap();
        let settings = vec![file.display().to_string(), "--sentinel".to_owned()];
        let access = ["-a", password, "--no-auth-warning"].map(str::to_owned).to_vec();
        let mut server = Self { port, dir, settings, access, keeper: None };
        server.run();
        server.wait_until_it_answers();
        server
    }

    fn start_at(port: u16, settings: &[(&str, &str)], tls: Option<Tls>) -> Self {
        let dir = directory(port);
        let (port_text, dir_text) = (port.to_string(), dir.display().to_string());
        let ours = [
            (if tls.is_some() { "tls-port" } else { "port" }, port_text.as_str()),
            ("bind", "127.0.0.1"),
            ("dir", &dir_text),
            ("save", ""),
            ("appendonly", "yes"),
            // A server that is killed has then written all that it acknowledged, and the system keeps that. By
            // `everysec` it holds writes back as long as a flush is under way.
            ("appendfsync", "no"),
            ("repl-diskless-sync-delay", "0"),
            ("repl-ping-replica-period", "1"),
            ("enable-debug-command", "yes"),
        ];
        let settings = ours.iter().chain(settings).map(|(key, value)| (*key, (*value).to_owned()));
        let tls_settings = tls.iter().flat_map(|tls| std::iter::once(("port", "0".to_owned())).chain(tls.settings()));
        let settings = settings.chain(tls_settings).flat_map(|(key, value)| {
            std::iter::once(format!("--{key}")).chain(value.split(' ').map(str::to_owned).collect::<Vec<_>>())
        });
        let settings = settings.collect();
        let access = tls.iter().flat_map(Tls::cli).collect();
        let mut server = Self { port, dir, settings, access, keeper: None };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.dir)
            .args(&self.settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = keeper.stdin.take().unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        self.keeper = Some((keeper, stdin, pid.trim().to_owned()));
    }

    fn end(&mut self, keep: bool) {
        let Some((mut keeper, mut stdin, _)) = self.keeper.take() else { return };
        if keep {
            let _ = stdin.write_all(b"keep\n");
        }
        drop(stdin);
        let _ = keeper.wait();
    }

    /// Ends it as by a crash; what it has on disk stays.
    pub(crate) fn kill(&mut self) {
        self.end(true);
    }

    /// Starts it again over what it had on disk.
    pub(crate) fn restart(&mut self) {
        self.end(true);
        self.run();
        self.wait_until_it_answers();
    }

    /// Starts it again without anything that it had.
    pub(crate) fn restart_empty(&mut self) {
        self.end(true);
        std::fs::remove_dir_all(&self.dir).unwrap();
        std::fs::create_dir_all(&self.dir).unwrap();
        self.restart();
    }

    fn signal(&self, signal: &str) {
        let (_, _, pid) = self.keeper.as_ref().unwrap();
        assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
    }

    /// Makes it hang.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn wait_until_it_answers(&self) {
        if !try_until(PATIENCE, || self.cli(&["PING"]).trim() == "PONG") {
            panic!("no redis-server answers: `apt-get install redis-server` brings redis-server and redis-cli");
        }
    }

    /// What redis-cli prints for a command.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        let args: Vec<&str> = self.access.iter().map(String::as_str).chain(args.iter().copied()).collect();
        cli(self.port, &args)
    }

    /// A counter of `INFO`.
    pub(crate) fn info(&self, section: &str, field: &str) -> Option<String> {
        let info = self.cli(&["INFO", section]);
        info.lines().find_map(|line| Some(line.trim_end().strip_prefix(field)?.strip_prefix(':')?.to_owned()))
    }

    /// Waits until a field of `INFO` has this value.
    pub(crate) fn wait_until(&self, section: &str, field: &str, value: &str) {
        let is_so = try_until(PATIENCE, || self.info(section, field).as_deref() == Some(value));
        assert!(is_so, "{field} does not become {value}");
    }

    /// How often the server carried a command out since `CONFIG RESETSTAT`.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stat = self.info("commandstats", &format!("cmdstat_{command}")).unwrap_or_default();
        let calls = stat.split(',').find_map(|field| field.strip_prefix("calls="));
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// Settings that reach it, under a prefix of their own.
    pub(crate) fn config(&self) -> Redis {
        Redis { address: address(self.port).to_string().parse().unwrap(), ..test_config() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(false);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Three masters with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::of((0..6).map(|_| Self::start_node()).collect())
    }

    /// One that speaks TLS, to clients and between its nodes.
    pub(crate) fn start_tls(tls: &Tls) -> Self {
        Self::of((0..6).map(|_| Self::start_node_with(&[("tls-cluster", "yes")], Some(tls.clone()))).collect())
    }

    fn of(nodes: Vec<Server>) -> Self {
        for node in &nodes {
            node.wait_until_it_answers();
        }
        let addresses: Vec<String> = nodes.iter().map(|node| address(node.port).to_string()).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let told = nodes[0].cli(&create);
        assert!(told.contains("All 16384 slots covered"), "{told}");
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    /// A node that belongs to no cluster yet, and may not answer yet.
    pub(crate) fn start_node() -> Server {
        Self::start_node_with(&[], None)
    }

    fn start_node_with(settings: &[(&str, &str)], tls: Option<Tls>) -> Server {
        let timeout = NODE_TIMEOUT.as_millis().to_string();
        let ours = [
            ("cluster-enabled", "yes"),
            ("cluster-node-timeout", timeout.as_str()),
            // A replica whose link a busy machine has held up takes over all the same.
            ("cluster-replica-validity-factor", "0"),
        ];
        Server::start_at(free_port(), &[&ours, settings].concat(), tls)
    }

    /// The one that tests share who do it no harm. None of its masters is replaced only because the machine is busy.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let cluster = Self::start();
            for node in &cluster.nodes {
                assert_eq!(node.cli(&["CONFIG", "SET", "cluster-node-timeout", "30000"]).trim(), "OK");
            }
            cluster
        })
    }

    /// Until every node sees all slots served and every replica has all that its master has.
    pub(crate) fn wait_until_whole(&self) {
        let whole = try_until(PATIENCE, || {
            self.nodes.iter().all(|node| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                let sees_all = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6"];
                let replication = node.cli(&["INFO", "replication"]);
                sees_all.iter().all(|part| info.contains(part))
                    && (replication.contains("role:master") && replication.contains("state=online")
                        || replication.contains("master_link_status:up"))
            })
        });
        assert!(whole, "the cluster does not become whole: {}", self.nodes[0].cli(&["CLUSTER", "NODES"]));
        // A replica is called online before it has what was written while it was on its way.
        let offset = |node: &Server| node.info("replication", "master_repl_offset").unwrap().parse::<u64>().unwrap();
        for master in self.masters() {
            let (written, replica) = (offset(&self.nodes[master]), &self.nodes[self.replica_of(master)]);
            assert!(try_until(PATIENCE, || offset(replica) >= written), "a replica does not catch up");
        }
    }

    /// The nodes that are masters now, by their number here.
    pub(crate) fn masters(&self) -> Vec<usize> {
        let is_master = |index: &usize| self.nodes[*index].info("replication", "role").as_deref() == Some("master");
        (0..self.nodes.len()).filter(is_master).collect()
    }

    /// The node that replicates this master.
    pub(crate) fn replica_of(&self, master: usize) -> usize {
        let port = self.nodes[master].port.to_string();
        let follows = |node: &Server| node.info("replication", "master_port").as_deref() == Some(port.as_str());
        self.nodes.iter().position(follows).unwrap()
    }

    /// Kills a master and waits until its replica has taken over.
    pub(crate) fn kill_master(&mut self, master: usize) {
        let heir = self.replica_of(master);
        self.nodes[master].kill();
        self.wait_until_master(heir);
    }

    /// Waits until a node is a master.
    pub(crate) fn wait_until_master(&self, heir: usize) {
        let is_master = || self.nodes[heir].info("replication", "role").as_deref() == Some("master");
        assert!(try_until(PATIENCE, is_master), "{}", self.nodes[heir].cli(&["CLUSTER", "NODES"]));
    }

    /// Moves so many slots with all they hold.
    pub(crate) async fn move_slots(&self, from: usize, to: usize, count: usize) {
        let (port, from, to, count) = (self.nodes[from].port, self.id(from), self.id(to), count.to_string());
        let told = tokio::task::spawn_blocking(move || {
            let node = address(port).to_string();
            // redis-cli refuses while the nodes still tell each other of the move before.
            let agreed = || !cli(port, &["--cluster", "check", &node]).contains("[ERR]");
            assert!(try_until(PATIENCE, agreed), "the nodes do not agree");
            let slots = ["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", &count, "--cluster-yes"];
            cli(port, &[&["--cluster", "reshard", &node][..], &slots].concat())
        });
        let told = told.await.unwrap();
        assert!(!told.contains("[ERR]") && told.contains("Moving slot"), "{told}");
    }

    pub(crate) fn id(&self, index: usize) -> String {
        self.nodes[index].cli(&["CLUSTER", "MYID"]).trim().to_owned()
    }

    /// Settings that reach it, under a prefix of their own.
    pub(crate) fn config(&self) -> Redis {
        let cluster_addresses = self.nodes.iter().map(|node| address(node.port)).collect();
        Redis { cluster_mode: true, cluster_addresses, ..test_config() }
    }

    /// The same as a router's settings.
    pub(crate) fn settings(&self) -> Value {
        let redis = self.config();
        let nodes: Vec<String> = redis.cluster_addresses.iter().map(ToString::to_string).collect();
        json!({"response_api": {
            "store_backend": "redis",
            "redis": {"cluster_mode": true, "cluster_addresses": nodes, "key_prefix": redis.key_prefix},
        }})
    }
}

fn directory(port: u16) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("responses-router-redis-{}-{port}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn test_config() -> Redis {
    let key_prefix = format!("t{:08x}:", rand::random::<u32>());
    Redis { key_prefix, ..Redis::default() }
}

fn address(port: u16) -> RedisAddress {
    RedisAddress { host: "127.0.0.1".to_owned(), port }
}

/// What redis-cli prints.
pub(crate) fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output();
    let output = output.unwrap_or_else(|error| {
        panic!("redis-cli: {error}; `apt-get install redis-server` brings redis-server and redis-cli")
    });
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether something became true in time.
pub(crate) fn try_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// A port that is free, and so is the one 10000 above it, where a cluster's nodes talk. Both lie below those that Linux
/// gives to connections, which could take the port of a server that is killed.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 500).unwrap() * 20;
    for _ in 0..10_000 {
        let port = 10_500 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if [port, port + 10_000].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return port;
        }
    }
    panic!("no port is free");
}

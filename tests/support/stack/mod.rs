//! Client → Envoy ⇄ router, and a scripted chat backend behind them.

pub(crate) mod chat;
pub(crate) mod client;
#[cfg(feature = "otlp")]
pub(crate) mod collector;
pub(crate) mod digest;
pub(crate) mod envoy;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod recorder;
pub(crate) mod relay;
pub(crate) mod router;
pub(crate) mod strict;
pub(crate) mod upstream;
pub(crate) mod wait;

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;

use self::envoy::Envoy;
use self::http::{Connection, Reply, Request, post, request};
use self::relay::Relay;
use self::router::Router;
use self::upstream::Upstream;

/// The whole path, running.
pub(crate) struct Stack {
    pub(crate) upstream: Upstream,
    pub(crate) router: Router,
    pub(crate) envoy: Envoy,
    /// What is between Envoy and the upstream, if anything.
    pub(crate) upstream_relay: Option<Relay>,
    /// Keeps the port of an upstream that refuses connections from being taken by someone who accepts them.
    _refusing: Option<TcpSocket>,
}

/// A change of Envoy's configuration.
pub(crate) type EditEnvoy = Box<dyn FnOnce(&mut Value) + Send>;

/// What differs from the defaults.
#[derive(Default)]
pub(crate) struct StackOptions {
    /// Settings of the router.
    pub(crate) settings: Value,
    /// The router listens on a unix socket instead of a port.
    pub(crate) unix_socket: bool,
    /// Envoy's upstream refuses connections.
    pub(crate) upstream_down: bool,
    /// What differs in Envoy's configuration.
    pub(crate) envoy: Option<EditEnvoy>,
    /// Envoy reaches the upstream through this.
    pub(crate) upstream_relay: Option<Relay>,
}

impl Stack {
    /// Starts a stack of its own, for tests that change settings, kill something or count.
    pub(crate) async fn start(options: StackOptions) -> Hold {
        Hold(Arc::new(Self::build(options).await))
    }

    async fn build(options: StackOptions) -> Self {
        let upstream = Upstream::start().await;
        let router = Router::start(&options.settings, options.unix_socket).await;
        let (address, _refusing) = if options.upstream_down {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            (socket.local_addr().unwrap(), Some(socket))
        } else {
            (upstream.address, None)
        };
        let upstream_relay = options.upstream_relay;
        let address = upstream_relay.as_ref().map_or(address, |relay| {
            relay.lead_to(address);
            relay.address
        });
        let envoy = Envoy::start(address, &router.listen, options.envoy.unwrap_or_else(|| Box::new(|_| {}))).await;
        Self { upstream, router, envoy, upstream_relay, _refusing }
    }

    /// Starts another Envoy in the place of one that has ended. It has another address.
    pub(crate) async fn replace_envoy(&mut self) {
        self.envoy.process.exited().await;
        let address = self.upstream_relay.as_ref().map_or(self.upstream.address, |relay| relay.address);
        self.envoy = Envoy::start(address, &self.router.listen, |_| {}).await;
    }

    /// The stack that tests share: each with model names of its own.
    pub(crate) async fn shared() -> Hold {
        static SHARED: Mutex<Weak<Stack>> = Mutex::const_new(Weak::new());
        Self::share(&SHARED, Value::Null).await
    }

    /// The stack that tests share which want narrow limits: 64 KiB requests, and a heartbeat every second.
    pub(crate) async fn shared_with_narrow_limits() -> Hold {
        static SHARED: Mutex<Weak<Stack>> = Mutex::const_new(Weak::new());
        let settings = json!({"limits": {"max_request_bytes": 65536}, "stream": {"heartbeat_seconds": 1}});
        Self::share(&SHARED, settings).await
    }

    /// The stack that clients share: its heartbeats come every second.
    pub(crate) async fn shared_by_clients() -> Hold {
        static SHARED: Mutex<Weak<Stack>> = Mutex::const_new(Weak::new());
        Self::share(&SHARED, json!({"stream": {"heartbeat_seconds": 1}})).await
    }

    /// The stack in the slot, or a new one: it ends with the last test that holds it, since statics are never dropped.
    async fn share(slot: &Mutex<Weak<Self>>, settings: Value) -> Hold {
        let mut slot = slot.lock().await;
        if let Some(stack) = slot.upgrade() {
            return Hold(stack);
        }
        let stack = Arc::new(Self::build(StackOptions { settings, ..StackOptions::default() }).await);
        *slot = Arc::downgrade(&stack);
        Hold(stack)
    }

    /// A new connection to Envoy.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::http1(self.envoy.address).await
    }

    /// Sends one request on a connection of its own.
    pub(crate) async fn send(&self, request: Request) -> Reply {
        self.connect().await.send(request).await
    }

    /// POST /v1/responses.
    pub(crate) async fn create(&self, body: &Value) -> Reply {
        self.send(post("/v1/responses", body)).await
    }

    /// POST /v1/responses that has to succeed.
    pub(crate) async fn created(&self, body: &Value) -> Value {
        let reply = self.create(body).await;
        let status = reply.status;
        let response = reply.json().await;
        assert_eq!(status, 200, "{response}");
        response
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path)).await
    }

    /// GET /v1/responses/{id}.
    pub(crate) async fn retrieve(&self, id: &str) -> Reply {
        self.get(&format!("/v1/responses/{id}")).await
    }

    /// DELETE /v1/responses/{id}.
    pub(crate) async fn delete(&self, id: &str) -> Reply {
        self.send(request("DELETE", &format!("/v1/responses/{id}"))).await
    }
}

/// A test's hold on a stack. Shows what the parts have logged when the test fails.
pub(crate) struct Hold(Arc<Stack>);

impl Deref for Hold {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.0
    }
}

impl DerefMut for Hold {
    /// # Panics
    /// When others share the stack.
    fn deref_mut(&mut self) -> &mut Stack {
        Arc::get_mut(&mut self.0).expect("a stack of its own")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the router's log\n{}", self.0.router.process.log_tail());
            eprintln!("--- Envoy's log\n{}", self.0.envoy.process.log_tail());
        }
    }
}

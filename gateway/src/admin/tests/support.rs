//! An admin listener for a gateway without workers, with plugins that need no WebAssembly.

use super::*;
use crate::egress::Client;
use crate::revocation::Revocations;
use crate::upstream::Upstreams;

pub(super) const CONFIG: &str = r#"
    admin.api_key = "correct-horse"
    limits = { message_bytes_max = "1KiB", publication_bytes_max = "2KiB" }
    [namespaces.chat]
    history_size = 3
    presence = true
"#;

/// An admin listener for a gateway without workers.
pub(super) struct Admin {
    pub(super) address: SocketAddr,
    pub(super) backplane: Arc<Memory>,
    inboxes: Arc<[Arc<Inbox>]>,
    pub(super) registry: Arc<Registry>,
    pub(super) phase: watch::Sender<Phase>,
    /// Dropping it ends the listener.
    _serving: tokio::task::JoinSet<()>,
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Admin {
    pub(super) fn start(config: &str) -> Self {
        let config = Arc::new(Config::parse(config, "test.toml").unwrap());
        let inboxes: Arc<[_]> = [Arc::new(Inbox::new(16))].into();
        let ids = ConnectionIds::new(1);
        let backplane = Arc::new(Memory::new(inboxes.clone(), ids, &config.memory, 1));
        let (phase, seen) = watch::channel(Phase::Running);
        let metrics = Metrics::new(1);
        let registry = Registry::new(Arc::new(AnyBytes), Arc::new(NoWorkers));
        let observer = metrics.clone();
        let registry = Arc::new(registry.with_observer(move |applied| observer.node.applied(applied)));
        let (clock, client) = (Clock::start(), Client::new());
        let spools = tempfile::tempdir().unwrap();
        let upstreams =
            Upstreams::new(&config.upstreams, spools.path(), client, &metrics.node, clock, 7).unwrap();
        // Nothing writes events: it is as if the disk took nothing.
        let events = Events::new(&config, &upstreams, "machine/address", "run-1");
        let control = Control::new(Parts {
            upstreams,
            config: config.clone(),
            backplane: backplane.clone(),
            events,
            metrics,
            registry: registry.clone(),
            explain: Arc::new(Explain::new(config.explain.clone(), Clock::start())),
            revocations: Arc::new(Revocations::new(3, false)),
            clock: Clock::start(),
            phase: seen,
            inboxes: Arc::new([]),
            node: "node-1".into(),
            name: "machine/address".into(),
            supervisor: Supervisor::default(),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(serve(listener, config, None, control));
        Self { address, backplane, inboxes, registry, phase, _serving: serving }
    }

    /// Sends bytes and reads until the listener closes.
    pub(super) async fn raw(&self, request: impl AsRef<[u8]>) -> Response {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // A refusal may arrive before the whole request is sent.
        let _ = socket.write_all(request.as_ref()).await;
        let mut bytes = Vec::new();
        let read = timeout(Duration::from_secs(20), socket.read_to_end(&mut bytes)).await;
        // The listener resets the connection after its response if it did not read the whole request.
        let _ = read.expect("an answer and the end of the connection");
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Response { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    pub(super) async fn post(&self, path: &str, key: &str, body: &str) -> Response {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}");
        self.raw(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await
    }

    /// An API call that must be answered with status 200.
    pub(super) async fn api(&self, method: &str, body: Value) -> Value {
        let body = body.to_string();
        let response = self.post(&format!("/api/{method}"), "X-API-Key: correct-horse\r\n", &body).await;
        assert_eq!(response.status, 200, "{method} {body}: {}", response.body);
        serde_json::from_str(&response.body).unwrap()
    }

    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        self.inboxes[0].take(&mut deliveries);
        deliveries
    }

    pub(super) fn enter(&self, channel: &str, client: &str, user: &str, info: &'static str) {
        let (info, channel_info) = (Bytes::from_static(info.as_bytes()), Bytes::new());
        let member = Member { client: client.into(), user: user.into(), info, channel_info };
        self.backplane.presence_add(&Channel::parse(channel).unwrap(), &Arc::new(member), true, false);
    }
}

pub(super) fn code(response: &Value) -> u64 {
    response["error"]["code"].as_u64().unwrap_or(0)
}

// ---- Plugins without WebAssembly ----

/// Accepts every file that is not empty.
pub(super) struct AnyBytes;
pub(super) struct Empty(About);
pub(super) struct Nothing(Interests);
pub(super) struct NoWorkers;

impl Loader for AnyBytes {
    fn load_unless_cancelled(
        &self,
        _: &str,
        wasm: &[u8],
        _: &Settings,
        _: &Cancel,
    ) -> Result<Arc<dyn Factory>, LoadError> {
        if wasm.is_empty() {
            return Err(LoadError::new(LoadCode::Empty, "has no bytes"));
        }
        let hooks = Hooks { on_message: true, ..Hooks::default() };
        let about = About {
            name: None,
            version: Some("1.2.3".into()),
            sdk: None,
            interface: "0.1".into(),
            hooks,
            requested: Grants::default(),
            self_test: None,
        };
        Ok(Arc::new(Empty(about)))
    }
}

impl Factory for Empty {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        Ok(Box::new(Nothing(Interests::everything(self.0.hooks))))
    }

    fn about(&self) -> &About {
        &self.0
    }
}

impl Plugin for Nothing {
    fn interests(&self) -> &Interests {
        &self.0
    }

    fn on_connect(&mut self, _: &ConnectEvent, _: &mut Vec<Effect>) -> Result<ConnectVerdict, Failure> {
        Ok(ConnectVerdict::Pass)
    }

    fn on_message(&mut self, _: &mut Message, _: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        Ok(Verdict::Next)
    }

    fn on_disconnect(&mut self, _: &DisconnectEvent, _: &mut Vec<Effect>) -> Result<(), Failure> {
        Ok(())
    }
}

impl Workers for NoWorkers {
    fn count(&self) -> usize {
        1
    }

    fn swap(&self, _: usize, _: Chain) -> oneshot::Receiver<()> {
        oneshot::channel().1
    }
}

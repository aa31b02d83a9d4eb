//! The examples of backends: each, copied out of the clone, is followed as its README says, on other ports.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use gateway_tests::{Gateway, Postgres, Redis, Talk, Tool, eventually_within, free_address, request};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::tools::readme::{blocks, root};

/// A start of Python or a pause of the gateway on a busy machine.
const LIMIT: Duration = Duration::from_secs(40);
const SERVE: &str = "cargo run --release -- serve --config gateway.toml";

/// The folder of an example outside of the clone, and the commands of its README.
struct Example {
    folder: TempDir,
    commands: Vec<String>,
    environment: Vec<(String, String)>,
    /// Addresses of the README, and those that they are here.
    addresses: Vec<(&'static str, String)>,
}

impl Example {
    fn copy(name: &str) -> Self {
        let (from, folder) = (root().join("examples").join(name), tempfile::tempdir().unwrap());
        let files = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|path| path.is_file()) {
            fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
        let readme = fs::read_to_string(folder.path().join("README.md")).unwrap();
        let commands = blocks(&readme, "console");
        let commands = commands.iter().flat_map(|block| block.lines());
        let commands = commands.map(|line| line.strip_prefix("$ ").expect("a command").to_owned()).collect();
        Self { folder, commands, environment: Vec::new(), addresses: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The next command, which has to begin like this.
    fn next(&mut self, begins: &str) -> String {
        assert!(!self.commands.is_empty(), "the README has no command {begins:?} any more");
        let command = self.commands.remove(0);
        assert!(command.starts_with(begins), "{command:?} is not what this test tries here: {begins:?}");
        command
    }

    /// The next command sets a variable for those after it.
    fn export(&mut self) {
        let command = self.next("export ");
        let (name, value) = command["export ".len()..].split_once('=').expect("a value");
        self.set(name, value);
    }

    fn with_addresses(&self, text: &str) -> String {
        self.addresses.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    fn tool(&self, command: &str) -> Tool {
        let bash = Tool::new("bash").arg("-c").arg(self.with_addresses(command)).folder(&self.folder);
        self.environment.iter().fold(bash, |bash, (name, value)| bash.env(name, value))
    }

    /// What a command prints until it ends. That of `curl -m 2` ends it by force.
    async fn output(&self, command: &str) -> String {
        let output = self.tool(command).output(LIMIT).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let out_of_time = command.contains("-m 2 ") && output.status.code() == Some(28);
        assert!(output.status.success() || out_of_time, "{command}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Runs the next command to its end.
    async fn run(&mut self, begins: &str) -> String {
        let command = self.next(begins);
        self.output(&command).await
    }

    /// Starts a command, which goes on.
    fn start(&self, command: &str) -> Talk {
        self.tool(&format!("exec {command}")).talk()
    }

    /// The next command, which starts the backend, with a port of its own. The gateway then asks there.
    fn backend(&mut self) -> String {
        let (command, address) = (self.next("python3 backend.py"), free_address());
        self.addresses.push(("127.0.0.1:9000", address.to_string()));
        format!("{command} {}", address.port())
    }

    /// Starts the gateway of the folder with the next two commands.
    async fn serve(&mut self) -> Gateway {
        self.next("mkdir -p plugins");
        assert_eq!(self.next(""), SERVE);
        let mut config = fs::read_to_string(self.path("gateway.toml")).unwrap();
        for (from, to) in &self.addresses {
            assert!(config.contains(from), "gateway.toml has no {from} any more");
            config = config.replace(from, to);
        }
        let builder = Gateway::with(&config);
        let builder =
            self.environment.iter().fold(builder, |builder, (name, value)| builder.environment(name, value));
        let gateway = builder.start().await;
        self.addresses.push(("127.0.0.1:8000", gateway.address().to_string()));
        gateway
    }

    fn is_done(&self) {
        assert!(self.commands.is_empty(), "these commands are not tried: {:?}", self.commands);
    }
}

/// The next line that contains a text. Others are printed for people to read.
async fn line_with(running: &mut Talk, text: &str) -> String {
    loop {
        let line = running.line(LIMIT).await;
        if line.contains(text) {
            return line;
        }
        println!("{line}");
    }
}

/// What the second command of a call with `curl` was answered.
fn answer(printed: &str) -> &str {
    let answer = printed.lines().find(|line| line.starts_with(r#"{"id":2,"#));
    answer.unwrap_or_else(|| panic!("no answer: {printed}"))
}

#[tokio::test]
async fn a_backend_in_python_admits_answers_and_is_told() {
    let mut example = Example::copy("python-backend");
    example.export();
    let start = example.backend();
    let mut backend = example.start(&start);
    line_with(&mut backend, "listening").await;
    example.export();
    let mut gateway = example.serve().await;
    let listen = example.next("curl -N -H 'Authorization: Bearer token-of-ann'");
    let hello = r#""data":{"hello": "ann"}"#;
    let mut ann = example.start(&listen);
    line_with(&mut ann, hello).await;
    backend.hear(LIMIT, "connected ann").await;
    let call = example.next("curl -N -m 2 -d");
    assert!(call.contains("token-of-bob"), "{call}");
    let printed = example.output(&call).await;
    let users = answer(&printed).strip_prefix(r#"{"id":2,"rpc":{"data":"#).expect("a result");
    assert!([r#"["ann"]}}"#, r#"["ann", "bob"]}}"#].contains(&users), "{users}");
    let printed = example.output(&call.replace("online", "offline")).await;
    let error = r#"{"id":2,"error":{"code":1001,"message":"there is no such method"}}"#;
    assert_eq!(answer(&printed), error);
    backend.hear(LIMIT, "disconnected bob").await;
    let refused = example.run("curl -N -m 2 -H 'Authorization: Bearer nonsense'").await;
    assert!(
        refused.contains(r#"{"disconnect":{"code":3507,"reason":"nobody has this token"}}"#),
        "{refused}"
    );
    example.is_done();

    // Nobody else may tell it anything.
    let address = example.with_addresses("127.0.0.1:9000").parse().unwrap();
    let forged = json!({ "events": [{ "type": "connected", "client": "1", "user": "eve", "run": "1" }] });
    let body = forged.to_string();
    assert_eq!(request(address, "POST", "/gateway", &[], body.as_bytes()).await.status, 401);

    // A gateway that was killed does not tell that ann has gone, but that it has started again.
    gateway.restart().await;
    line_with(&mut backend, "gateway_started").await;
    let printed = example.output(&call).await;
    let users = answer(&printed).strip_prefix(r#"{"id":2,"rpc":{"data":"#).expect("a result");
    assert!(["[]}}", r#"["bob"]}}"#].contains(&users), "{users}");

    // A backend that was away is told what happened meanwhile.
    let mut ann = example.start(&listen);
    line_with(&mut ann, hello).await;
    backend.hear(LIMIT, "connected ann").await;
    drop(backend);
    eventually_within(LIMIT, "nobody at the port", async || TcpStream::connect(address).await.err()).await;
    let refused = example.output(&format!("{listen} -m 2 ")).await;
    assert!(refused.contains(r#"{"disconnect":{"code":3004"#), "{refused}");
    drop(ann);
    let mut backend = example.start(&start);
    backend.hear(LIMIT, "disconnected ann").await;
}

#[tokio::test]
async fn an_outbox_in_postgres_is_published_as_the_transaction_says() {
    let postgres = Postgres::start().await;
    let mut example = Example::copy("postgres-outbox");
    let (user, password, _) = postgres.login();
    let url = postgres.url();
    let address = url.strip_prefix("postgres://").and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let (host, port) = address.split_once(':').unwrap();
    for (name, value) in [("PGHOST", host), ("PGPORT", port), ("PGUSER", user), ("PGPASSWORD", password)] {
        example.set(name, value);
    }
    example.export();
    example.run("createdb shop").await;
    example.run("psql shop -v password=").await;
    example.export();
    example.addresses.push(("127.0.0.1:5432", address));
    let mut gateway = example.serve().await;
    let listen = example.next("curl -N -d");
    let mut client = example.start(&listen);
    line_with(&mut client, r#"{"id":2,"subscribe":"#).await;
    let order = example.next("psql shop -f order.sql");
    example.output(&order).await;
    let order_of = |id: u32| format!(r#""data":{{"id": {id}, "item": "tea", "state": "new"}}"#);
    assert!(client.line(LIMIT).await.contains(&order_of(1)));

    // One that is rolled back takes a number, and is not announced.
    example.run("sed s/COMMIT/ROLLBACK/ order.sql | psql shop").await;
    example.output(&order).await;
    let push = line_with(&mut client, "push").await;
    assert!(push.contains(&order_of(3)), "{push}");
    has_no_rows(&example).await;

    // While the gateway is away, the row waits.
    gateway.kill();
    example.run("psql shop -f order.sql").await;
    let waits = example.run("psql shop -c 'SELECT id, method, payload FROM gateway_outbox'").await;
    assert!(waits.contains("publish") && waits.contains("(1 row)"), "{waits}");
    gateway.restart().await;
    let history = example.next("curl -N -m 2 -d");
    eventually_within(LIMIT, "the order in the history", async || {
        example.output(&history).await.contains(&order_of(4)).then_some(())
    })
    .await;
    has_no_rows(&example).await;
    example.is_done();
}

/// The gateway has deleted what it has done.
async fn has_no_rows(example: &Example) {
    eventually_within(LIMIT, "an empty outbox", async || {
        let rows = example.output("psql shop -Atc 'SELECT count(*) FROM gateway_outbox'").await;
        (rows.trim() == "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_answers_the_user_who_ordered() {
    let redis = Redis::with("").persistent().start().await;
    let mut example = Example::copy("stream-worker");
    example.set("REDIS_PORT", &redis.address().port().to_string());
    let start = example.backend();
    let mut backend = example.start(&start);
    line_with(&mut backend, "listening").await;
    example.addresses.push(("127.0.0.1:6379", redis.address().to_string()));
    let _gateway = example.serve().await;
    let listen = example.next("curl -N -H 'Authorization: Bearer token-of-ann'");
    let (mut ann, mut bob) =
        (example.start(&listen), example.start(&listen.replace("token-of-ann", "token-of-bob")));
    line_with(&mut ann, "connect").await;
    line_with(&mut bob, "connect").await;
    let call = example.next("curl -N -m 2 -d");
    let job_of = async |call: &str| {
        let printed = example.output(call).await;
        let job = answer(&printed).strip_prefix(r#"{"id":2,"rpc":{"data":{"job": ""#).expect("a job");
        job.split('"').next().expect("a number").to_owned()
    };
    let of_ann = job_of(&call).await;
    let of_bob = job_of(&call.replace("token-of-ann", "token-of-bob").replace("91", "64")).await;
    let printed = example.output(&call.replace("91", "\"x\"")).await;
    assert!(answer(&printed).starts_with(r#"{"id":2,"error":{"code":1001,"#), "{printed}");

    let mut worker = example.start("python3 worker.py");
    worker.hear(LIMIT, &format!("done {of_ann}")).await;
    let published = line_with(&mut ann, "pub").await;
    let answer_of = |user: &str, job: &str, number: u32, factors: &str| {
        let data = format!(r#"{{"job": "{job}", "number": {number}, "factors": [{factors}]}}"#);
        format!(r##"data: {{"channel":"inbox:#{user}","pub":{{"data":{data},"##)
    };
    assert!(published.starts_with(&answer_of("ann", &of_ann, 91, "7, 13")), "{published}");
    worker.hear(LIMIT, &format!("done {of_bob}")).await;
    let published = line_with(&mut bob, "pub").await;
    assert!(published.starts_with(&answer_of("bob", &of_bob, 64, "2, 2, 2, 2, 2, 2")), "{published}");

    // A worker dies with a job, a minute ago: another one does it.
    drop(worker);
    let left = job_of(&call).await;
    let take = ["XREADGROUP", "GROUP", "workers", "dead", "COUNT", "1", "STREAMS", "jobs", ">"];
    // Redis may have given it to the worker that has gone.
    let claim = ["XCLAIM", "jobs", "workers", "dead", "0", &left, "IDLE", "100000"];
    eventually_within(LIMIT, "a worker that died with the job", async || {
        redis.ask(&take).await;
        (!redis.ask(&claim).await.list().is_empty()).then_some(())
    })
    .await;
    let command = example.next("python3 worker.py");
    let mut worker = example.start(&command);
    worker.hear(LIMIT, &format!("done {left}")).await;
    let published = line_with(&mut ann, "pub").await;
    assert!(published.starts_with(&answer_of("ann", &left, 91, "7, 13")), "{published}");

    // It has taken everything that was there, and left nothing.
    let pending = redis.ask(&["XPENDING", "jobs", "workers"]).await.list();
    assert_eq!(pending[0].number(), 0);
    eventually_within(LIMIT, "the gateway to have taken all answers", async || {
        (redis.ask(&["XLEN", "gateway:commands"]).await.number() == 0).then_some(())
    })
    .await;
    example.is_done();
}

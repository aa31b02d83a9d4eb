//! Real nginx and HAProxy on loopback, between clients and a gateway.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::log::Log;
use crate::port::free_address;
use crate::process::Process;
use crate::wait::eventually;

/// The address of the gateway in the pages.
const SHOWN: &str = "127.0.0.1:8000";

/// A part of a configuration for the gateway at this address.
fn at(server: SocketAddr, part: &str) -> String {
    assert!(part.contains(SHOWN), "it names the gateway: {part}");
    part.replace(SHOWN, &server.to_string())
}

/// A running proxy. Killed when dropped; its last log lines are shown if the test fails.
#[derive(Debug)]
pub struct WebProxy {
    process: Process,
    log: Log,
    address: SocketAddr,
    _folder: TempDir,
}

impl WebProxy {
    /// nginx, which passes requests and upgrades on to this server. `lines` are more lines of its `location`.
    pub async fn nginx(server: SocketAddr, lines: &str) -> Self {
        Self::nginx_with(|address| {
            format!(
                "server {{\n\
                 listen {address};\n\
                 location / {{\n\
                 proxy_pass http://{server};\n\
                 proxy_http_version 1.1;\n\
                 proxy_set_header Upgrade $http_upgrade;\n\
                 proxy_set_header Connection upgrade;\n\
                 {lines}\n\
                 }}\n}}\n"
            )
        })
        .await
    }

    /// nginx with a part of a configuration as a page shows it, in which the gateway is `127.0.0.1:8000`.
    pub async fn nginx_as_shown(server: SocketAddr, part: &str) -> Self {
        let part = at(server, part);
        assert_eq!(part.matches("server {").count(), 1, "one server, which gets an address: {part}");
        Self::nginx_with(|address| part.replace("server {", &format!("server {{\nlisten {address};"))).await
    }

    async fn nginx_with(http: impl Fn(SocketAddr) -> String) -> Self {
        Self::start("nginx", &["-e", "stderr", "-c"], |address, folder| {
            format!(
                "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n\
                 events {{}}\n\
                 http {{\n\
                 access_log off;\n\
                 client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
                 fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
                 {}\n}}\n",
                http(address)
            )
        })
        .await
    }

    /// HAProxy with a part of a configuration as a page shows it, in which the gateway is
    /// `127.0.0.1:8000` and its back end is called `gateways`.
    pub async fn haproxy_as_shown(server: SocketAddr, part: &str) -> Self {
        let part = at(server, part);
        Self::start("haproxy", &["-db", "-f"], |address, _| {
            format!("{part}\nfrontend clients\n  bind {address}\n  default_backend gateways\n")
        })
        .await
    }

    /// HAProxy in the mode `http` or `tcp`, with these options of its server line and more lines of its back
    /// end.
    pub async fn haproxy(server: SocketAddr, mode: &str, options: &str, lines: &str) -> Self {
        Self::start("haproxy", &["-db", "-f"], |address, _| {
            format!(
                "defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
                 timeout tunnel 60s\nfrontend clients\n  bind {address}\n  default_backend gateways\n\
                 backend gateways\n  {lines}\n  server gateway {server} {options}\n"
            )
        })
        .await
    }

    async fn start(program: &str, arguments: &[&str], config: impl Fn(SocketAddr, &str) -> String) -> Self {
        let folder =
            tempfile::Builder::new().prefix("proxy-").tempdir().expect("a folder for temporary files");
        let address = free_address();
        let file = folder.path().join("proxy.conf");
        let text = config(address, &folder.path().display().to_string());
        fs::write(&file, text).expect("a file can be written");
        // Debian keeps both where only the administrator looks.
        let path = PathBuf::from("/usr/sbin").join(program);
        let program = if path.exists() { path } else { program.into() };
        let mut child = Command::new(&program)
            .args(arguments)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("failed to run {}: {error}; `tests/run` does all the set-up", program.display())
            });
        let log = Log::follow(child.stderr.take().expect("it was asked for"));
        let mut proxy = Self { process: Process::new(child), log, address, _folder: folder };
        eventually("the proxy to listen", async || {
            assert!(proxy.process.is_running(), "{}: {}", program.display(), proxy.log.tail(40));
            TcpStream::connect(address).await.ok().map(drop)
        })
        .await;
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

impl Drop for WebProxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last log lines of the proxy:\n{}", self.log.tail(40));
        }
    }
}

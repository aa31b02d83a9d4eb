//! Connects to one Redis server, sends commands with a timeout, and maps errors to causes.

use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::AsyncDNSResolver;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisFuture, TlsCertificates, Value,
};
use tokio::time::timeout;

use crate::backplane::redis::connection::status::Cause;
use crate::config;
use crate::egress::Names;
use crate::telemetry::backplane::Trouble;

/// Maximum number of concurrent name lookups for servers.
pub const LOOKUPS_MAX: usize = 16;

/// Creates a client for a server. TLS trusts `authority`, in PEM, or what the system trusts.
pub(crate) fn client(
    authority: Option<&[u8]>,
    server: &config::RedisServer,
    username: &str,
    password: Option<&config::Secret>,
) -> Result<Client, Cause> {
    let config::RedisServer { tls, host, port, database } = server;
    let (host, port) = (host.to_string(), *port);
    let address = if *tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut settings = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name()
        .set_db(i64::from(*database));
    if !username.is_empty() {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password.expose());
    }
    let info = address.into_connection_info().map_err(|error| cause(&error))?.set_redis_settings(settings);
    let authority = authority.filter(|_| *tls).map(<[u8]>::to_vec);
    let client = match authority {
        Some(root_cert) => {
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
            Client::build_with_tls(info, trusted)
        }
        None => Client::open(info),
    };
    client.map_err(|error| cause(&error))
}

/// Settings of a connection: connecting is bounded by `time`; each command has a separate timeout.
pub(crate) fn settings(time: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(time))
        .set_response_timeout(None)
        .set_dns_resolver(ServerNames)
}

/// Name lookups are shared, so that abandoned attempts to connect do not pile up lookups of the same name.
static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new(LOOKUPS_MAX));

struct ServerNames;

impl AsyncDNSResolver for ServerNames {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = NAMES.addresses(host).await.map_err(|why| io::Error::other(why.into_string()))?;
            let addresses: Vec<_> = found.iter().map(|address| SocketAddr::new(*address, port)).collect();
            Ok(Box::new(addresses.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// Sends one command with a timeout.
pub(crate) async fn call(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
    time: Duration,
) -> Result<Value, Cause> {
    match timeout(time, connection.send_packed_command(command)).await {
        Err(_) => Err(Cause::new(Trouble::Silent, format!("no answer within {time:?}"))),
        Ok(Err(error)) => Err(cause(&error)),
        Ok(Ok(Value::ServerError(error))) => Err(refusal(error.code(), error.details().unwrap_or_default())),
        Ok(Ok(value)) => Ok(value),
    }
}

/// Sends several commands at once, with a timeout.
pub(crate) async fn call_all(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
    commands: usize,
    time: Duration,
) -> Result<Vec<Value>, Cause> {
    match timeout(time, connection.send_packed_commands(pipeline, 0, commands)).await {
        Ok(Ok(replies)) if replies.len() == commands => Ok(replies),
        Ok(Ok(_)) => Err(Cause::new(Trouble::Silent, "answers are missing")),
        Ok(Err(error)) => Err(cause(&error)),
        Err(_) => Err(Cause::new(Trouble::Silent, "no answer when data was written")),
    }
}

/// Maps an error of the client to a cause.
pub(crate) fn cause(error: &RedisError) -> Cause {
    match error.code() {
        Some(code) => refusal(code, error.detail().unwrap_or_default()),
        None if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            Cause::new(Trouble::Refused, "wrong user name or password")
        }
        None => Cause::new(Trouble::Unreachable, error.to_string()),
    }
}

/// Maps an error of the server to a cause.
pub(crate) fn refusal(code: &str, detail: &str) -> Cause {
    let trouble = match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Trouble::Refused,
        "READONLY" => Trouble::Replica,
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" => Trouble::Silent,
        // The scripts are gone: a new connection loads them.
        "NOSCRIPT" => Trouble::Unreachable,
        // The server has lost slots: a new connection finds out which it has.
        code if is_elsewhere(code) => Trouble::Unreachable,
        _ => Trouble::Writes,
    };
    Cause::new(trouble, format!("{code} {detail}"))
}

/// Whether an error concerns the server, and not only one command.
pub(crate) fn is_of_server(code: &str) -> bool {
    !matches!(code, "ERR" | "WRONGTYPE") && !is_elsewhere(code)
}

/// Whether an error says that another server of the Cluster has the slot, or soon will. The command was not
/// carried out. It waits until that server has the slot: subscribers do not receive its publications before.
pub(crate) fn is_elsewhere(code: &str) -> bool {
    matches!(code, "MOVED" | "ASK" | "TRYAGAIN")
}

#[cfg(test)]
mod tests {
    use crate::backplane::redis::connection::client::*;

    #[test]
    fn errors_of_the_server_are_told_apart() {
        for (code, trouble) in [
            ("OOM", Trouble::Writes),
            ("MISCONF", Trouble::Writes),
            ("NOREPLICAS", Trouble::Writes),
            ("READONLY", Trouble::Replica),
            ("NOPERM", Trouble::Refused),
            ("LOADING", Trouble::Silent),
        ] {
            assert_eq!(refusal(code, "because").trouble, trouble, "{code}");
        }
    }
}

//! A `Claim` on the data of a dead gateway: of the others, one at a time takes it over.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::backplane::redis::connection::client::call;
use crate::backplane::redis::connection::status::Cause;
use crate::backplane::redis::context::Context;

const CLAIMING: &str = include_str!("../lua/claim.lua");

/// How long a claim holds. It is renewed with every step.
const CLAIM: Duration = Duration::from_secs(10);

/// Number of channels or clients in one step.
pub(crate) const STEP: usize = 64;

/// See the module.
pub(crate) struct Claim<'a> {
    pub(crate) context: &'a Context,
    /// The dead gateway.
    pub(crate) node: &'a str,
}

impl Claim<'_> {
    /// Claims the takeover, or extends the claim. False if this gateway must not continue.
    pub(crate) async fn take(&self, connection: &mut MultiplexedConnection) -> Result<bool, Cause> {
        let Context { keys, config, .. } = self.context;
        let mut command = redis::cmd("EVAL");
        command.arg(CLAIMING).arg(2).arg(keys.dead()).arg(keys.leases());
        command.arg(self.node).arg(self.context.node_name()).arg(CLAIM.as_millis() as u64);
        Ok(call(connection, &command, config.timeout).await? == Value::Int(1))
    }
}

//! `Components` are the parts of the backplane that the workers and the control runtime share. Each part
//! knows only parts that are made before it.

use std::sync::Arc;

use crate::backplane::redis::agreement::Agreement;
use crate::backplane::redis::clients::Clients;
use crate::backplane::redis::commands::dispatch::{Queues, Requests};
use crate::backplane::redis::context::Context;
use crate::backplane::redis::inputs::Inputs;
use crate::backplane::redis::membership::nodes::Nodes;
use crate::backplane::redis::presence::Presence;
use crate::backplane::redis::subscriptions::Subscriptions;
use crate::backplane::redis::survey::Surveys;
use crate::backplane::redis::topology::Topology;

/// See the module.
#[derive(Clone)]
pub(crate) struct Components {
    pub(crate) context: Arc<Context>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) agreement: Arc<Agreement>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) surveys: Arc<Surveys>,
    pub(crate) inputs: Arc<Inputs>,
    pub(crate) nodes: Arc<Nodes>,
}

impl Components {
    /// Creates all of them, and the receiving ends of the pipelines.
    pub(crate) fn new(context: Context) -> (Self, Queues) {
        let context = Arc::new(context);
        let topology = Arc::new(Topology::new(&context.config, &context.metrics));
        let agreement = Arc::new(Agreement::new(context.clone(), topology.clone()));
        let (requests, queues) = Requests::new(context.clone(), topology.clone());
        let requests = Arc::new(requests);
        let subscriptions =
            Subscriptions::new(context.clone(), topology.clone(), agreement.clone(), requests.clone());
        let presence = Arc::new(Presence::new(context.clone(), topology.clone()));
        let clients = Arc::new(Clients::new(context.clone()));
        let nodes = Nodes::new(
            context.clone(),
            topology.clone(),
            agreement.clone(),
            presence.clone(),
            clients.clone(),
        );
        let components = Self {
            context,
            topology,
            agreement,
            requests,
            subscriptions: Arc::new(subscriptions),
            presence,
            clients,
            surveys: Arc::new(Surveys::new()),
            inputs: Arc::default(),
            nodes: Arc::new(nodes),
        };
        (components, queues)
    }
}

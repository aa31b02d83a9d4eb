//! On a Cluster, whose masters fail and whose slots move.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use gateway_tests::{Cluster, Data, Gateway};
use tokio::time::sleep;

use super::{CHANNELS, NODES, Scene, gateway};

/// Slots of one fault.
const MOVED: usize = 8;

#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The master of the slot of this channel.
    MasterKilled(usize),
    MasterFrozen(usize),
    MasterReplaced(usize),
    /// The slots of these channels.
    SlotsMoved(Vec<usize>),
    /// The slot of what all gateways need.
    HomeMoved,
    NodeKilled(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MasterKilled(channel) => {
                write!(f, "master of channel {channel} killed, and back as a replica")
            }
            Self::MasterFrozen(channel) => {
                write!(f, "master of channel {channel} frozen, and back as a replica")
            }
            Self::MasterReplaced(channel) => {
                write!(f, "master of channel {channel} replaced while it is well")
            }
            Self::SlotsMoved(channels) => write!(f, "slots of channels {channels:?} moved"),
            Self::HomeMoved => f.write_str("slot of the nodes moved"),
            Self::NodeKilled(node) => write!(f, "node {node} killed"),
        }
    }
}

pub(super) struct OnCluster {
    cluster: Cluster,
    gateways: Vec<Gateway>,
}

impl OnCluster {
    pub(super) async fn open() -> Self {
        let cluster = Cluster::start().await;
        let named: Vec<_> = cluster.addresses().iter().map(|at| format!("'{at}'")).collect();
        let redis = format!("cluster = [{}]", named.join(", "));
        let gateways = Gateway::nodes(NODES, |_| gateway(&redis)).await;
        Self { cluster, gateways }
    }

    async fn slot(&self, channel: usize) -> u16 {
        self.cluster.slot(&format!("{{news:{channel}}}")).await
    }

    /// Moves a slot to another master, and lets it be on its way for a time.
    async fn reshard(&self, slot: u16, time: Duration) {
        let owner = self.cluster.owner(slot).await;
        for other in 0..CHANNELS {
            let to = self.cluster.owner(self.slot(other).await).await;
            if to != owner {
                self.cluster.begin_move(slot, to).await;
                sleep(time).await;
                return self.cluster.end_move(slot, to).await;
            }
        }
        panic!("there is one master only")
    }
}

impl Scene for OnCluster {
    type Fault = Fault;

    fn gateways(&mut self) -> &mut [Gateway] {
        &mut self.gateways
    }

    fn any(random: &mut Rng) -> Fault {
        let channel = random.usize(..CHANNELS);
        match random.u8(..6) {
            0 => Fault::MasterKilled(channel),
            1 => Fault::MasterFrozen(channel),
            2 => Fault::MasterReplaced(channel),
            3 => Fault::SlotsMoved((0..MOVED).map(|_| random.usize(..CHANNELS)).collect()),
            4 => Fault::HomeMoved,
            _ => Fault::NodeKilled(random.usize(..NODES)),
        }
    }

    async fn suffer(&mut self, fault: &Fault, time: Duration) {
        match fault {
            Fault::MasterKilled(channel) => {
                let slot = self.slot(*channel).await;
                let master = self.cluster.owner(slot).await;
                self.cluster.servers()[master].kill();
                self.cluster.promoted(slot, master).await;
                self.cluster.servers()[master].revive(Data::Kept).await;
            }
            Fault::MasterFrozen(channel) => {
                let slot = self.slot(*channel).await;
                let master = self.cluster.owner(slot).await;
                self.cluster.servers()[master].freeze().await;
                self.cluster.promoted(slot, master).await;
                sleep(time).await;
                self.cluster.servers()[master].thaw();
            }
            Fault::MasterReplaced(channel) => {
                let slot = self.slot(*channel).await;
                self.cluster.failover(slot).await;
            }
            Fault::SlotsMoved(channels) => {
                for channel in channels {
                    self.reshard(self.slot(*channel).await, time / 10).await;
                }
            }
            Fault::HomeMoved => {
                let slot = self.cluster.slot("{nodes}").await;
                self.reshard(slot, time / 10).await;
            }
            Fault::NodeKilled(node) => {
                self.gateways[*node].kill();
                sleep(time).await;
                self.gateways[*node].restart().await;
            }
        }
        self.cluster.whole().await;
    }
}

//! Nodes register, renew their leases, hand in frames and leave.

use std::net::SocketAddr;

use framecrew_proto::v1::{
    self as wire, AdoptFramesRequest, AdoptFramesResponse, HeartbeatRequest, HeartbeatResponse,
    ListNodesResponse, RegisterNodeRequest, RegisterNodeResponse, UnregisterNodeRequest,
    UnregisterNodeResponse,
};
use tonic::{Status, transport::Endpoint};

use super::orchestrator::OrchestratorService;
use crate::{
    convert::{self, violations::Violations},
    domain::{BatchId, Incarnation},
    mailbox::{MembershipError, Registration, Welcome},
    neighbour,
};

/// Heartbeats in one lease: two may be lost before it expires.
const HEARTBEATS_A_LEASE: u32 = 3;

impl OrchestratorService {
    pub(super) async fn register(
        &self,
        request: RegisterNodeRequest,
        peer: Option<SocketAddr>,
    ) -> Result<RegisterNodeResponse, Status> {
        let mut violations = Violations::default();
        convert::node_name(&request.name, &mut violations);
        if request.incarnation == 0 {
            violations.add("incarnation", "must be 1 or more");
        }
        let address = if request.address.is_empty() {
            let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
            match (peer, port) {
                (Some(peer), Some(port)) => format!("http://{}", SocketAddr::new(peer.ip(), port)),
                _ => {
                    violations.add("port", "must be 1 to 65535 where address is empty");
                    String::new()
                }
            }
        } else {
            request.address
        };
        if !address.is_empty() && Endpoint::from_shared(address.clone()).is_err() {
            violations.add("address", "must be a URL like http://10.0.0.7:3000");
        }
        let description = convert::node_description(request.description, &mut violations);
        violations.check()?;
        let Some(description) = description else {
            return Err(Status::internal("a description without violations did not parse"));
        };
        let neighbour = neighbour::of(&address, request.port, peer);
        let mut registration = Registration {
            node: request.name.into(),
            incarnation: Incarnation(request.incarnation),
            address,
            description,
            batches: request.batch_ids.into_iter().map(BatchId).collect(),
            neighbour,
            replaces: None,
        };
        let welcome = match self.driver.register(registration.clone()).await {
            Err(MembershipError::NameTaken { address, neighbour, .. })
                if has_ended(&address, neighbour, peer).await =>
            {
                registration.replaces = Some(address);
                self.driver.register(registration).await
            }
            welcome => welcome,
        };
        let Welcome { abandoned, first_batch } = welcome?;
        Ok(RegisterNodeResponse {
            lease_ttl_ms: self.lease.as_millis() as u64,
            heartbeat_interval_ms: (self.lease / HEARTBEATS_A_LEASE).as_millis() as u64,
            epoch: u64::from(self.feed.identity().epoch.0),
            abandon_batch_ids: abandoned.into_iter().map(|batch| batch.0).collect(),
            first_batch_id: first_batch.0,
            store_id: self.feed.identity().store_id.to_string(),
        })
    }

    pub(super) async fn renew_lease(
        &self,
        request: HeartbeatRequest,
    ) -> Result<HeartbeatResponse, Status> {
        // The node holds batches and an epoch of another store. Registering again replaces both.
        if !request.store_id.is_empty() && *request.store_id != *self.feed.identity().store_id {
            return Err(MembershipError::NotRegistered(request.name.into()).into());
        }
        let batches = request.batch_ids.into_iter().map(BatchId).collect();
        let abandoned = self
            .driver
            .heartbeat(
                request.name.into(),
                Incarnation(request.incarnation),
                batches,
                BatchId(request.first_batch_id),
                request.draining,
            )
            .await?;
        Ok(HeartbeatResponse {
            lease_ttl_ms: self.lease.as_millis() as u64,
            epoch: u64::from(self.feed.identity().epoch.0),
            abandon_batch_ids: abandoned.into_iter().map(|batch| batch.0).collect(),
        })
    }

    pub(super) async fn adopt(
        &self,
        request: AdoptFramesRequest,
    ) -> Result<AdoptFramesResponse, Status> {
        let mut violations = Violations::default();
        convert::node_name(&request.name, &mut violations);
        let asked = request.frames.len();
        let mut frames = convert::orphaned_frames(request.frames, &mut violations);
        violations.check()?;
        // The jobs of another store have the same numbers and different frames.
        let is_ours = *request.store_id == *self.feed.identity().store_id;
        if !is_ours {
            frames.clear();
        }
        let incarnation = Incarnation(request.incarnation);
        let adoptions = self.driver.adopt(request.name.into(), incarnation, frames).await?;
        let adoptions = if is_ours {
            adoptions.into_iter().map(|it| convert::adoption_to_wire(it).into()).collect()
        } else {
            vec![wire::Adoption::Unwanted.into(); asked]
        };
        Ok(AdoptFramesResponse { adoptions })
    }

    pub(super) async fn unregister(
        &self,
        request: UnregisterNodeRequest,
    ) -> Result<UnregisterNodeResponse, Status> {
        let incarnation = Incarnation(request.incarnation);
        self.driver.unregister(request.name.into(), incarnation).await?;
        Ok(UnregisterNodeResponse {})
    }

    pub(super) fn nodes(&self) -> ListNodesResponse {
        ListNodesResponse { nodes: self.feed.nodes().iter().map(convert::node_to_wire).collect() }
    }
}

/// Whether the process at a node's former address is certain to have ended: nothing listens there any more, and it
/// ran on this machine or on the machine of the process that asks for its name.
async fn has_ended(address: &str, ours: Option<SocketAddr>, peer: Option<SocketAddr>) -> bool {
    let asks_from = peer.map(|peer| peer.ip().to_canonical());
    let theirs = neighbour::socket(address).filter(|at| {
        // A loopback address only counts if the process is known to run on this machine.
        Some(at.ip()) == asks_from && !at.ip().is_loopback()
    });
    match ours.or(theirs) {
        Some(at) => neighbour::refuses(at).await,
        None => false,
    }
}

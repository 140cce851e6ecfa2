//! Nodes come, stay and go.

use std::net::SocketAddr;

use framecrew_proto::v1::{
    self as wire, AdoptFramesRequest, AdoptFramesResponse, HeartbeatRequest, HeartbeatResponse,
    ListNodesResponse, RegisterNodeRequest, RegisterNodeResponse, UnregisterNodeRequest,
    UnregisterNodeResponse,
};
use tonic::{Status, transport::Endpoint};

use super::{faults::Faults, orchestrator::OrchestratorService};
use crate::{
    convert,
    domain::{BatchId, Incarnation},
    driver::{AdoptError, MembershipError, Registration, Welcome},
    neighbour,
};

/// Heartbeats in one lease: two may be lost before it runs out.
const HEARTBEATS_A_LEASE: u32 = 3;

impl OrchestratorService {
    pub(super) async fn register(
        &self,
        request: RegisterNodeRequest,
        peer: Option<SocketAddr>,
    ) -> Result<RegisterNodeResponse, Status> {
        let mut faults = Faults::default();
        convert::node_name(&request.name, &mut faults);
        if request.incarnation == 0 {
            faults.add("incarnation", "must be 1 or more");
        }
        let address = if request.address.is_empty() {
            let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
            match (peer, port) {
                (Some(peer), Some(port)) => format!("http://{}", SocketAddr::new(peer.ip(), port)),
                _ => {
                    faults.add("port", "must be 1 to 65535 where address is empty");
                    String::new()
                }
            }
        } else {
            request.address
        };
        if !address.is_empty() && Endpoint::from_shared(address.clone()).is_err() {
            faults.add("address", "must be a URL like http://10.0.0.7:3000");
        }
        let description = convert::node_description(request.description, &mut faults);
        faults.check()?;
        let Some(description) = description else {
            return Err(Status::internal("a description without faults did not parse"));
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
        // It has another store's batches, and compares with that one's epochs: registering again settles both.
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
        let mut faults = Faults::default();
        convert::node_name(&request.name, &mut faults);
        let asked = request.frames.len();
        let mut frames = convert::orphaned_frames(request.frames, &mut faults);
        faults.check()?;
        // Another store's jobs have the same numbers, and other frames.
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
        // A loopback address only counts if the process is known to be on this machine.
        Some(at.ip()) == asks_from && !at.ip().is_loopback()
    });
    match ours.or(theirs) {
        Some(at) => neighbour::refuses(at).await,
        None => false,
    }
}

impl From<MembershipError> for Status {
    fn from(error: MembershipError) -> Self {
        let message = error.to_string();
        match error {
            MembershipError::NotRegistered(_) | MembershipError::Unreachable { .. } => {
                Self::not_found(message)
            }
            MembershipError::NewerIncarnation(_) => Self::aborted(message),
            MembershipError::NameTaken { .. } => Self::already_exists(message),
            MembershipError::NoAnswer(error) => error.into(),
        }
    }
}

impl From<AdoptError> for Status {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Membership(error) => error.into(),
            AdoptError::Blobs(error) => error.into(),
        }
    }
}

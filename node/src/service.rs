//! The RenderNode service: translates, calls the node, translates back.

use std::{pin::Pin, sync::Arc, time::Duration};

use framecrew_proto::{
    BatchName,
    v1::{
        AttachBatchRequest, AttachBatchResponse, CancelBatchRequest, CancelBatchResponse,
        DescribeNodeRequest, DescribeNodeResponse, RenderBatchRequest, RenderBatchResponse,
        WatchNodeRequest, WatchNodeResponse, render_node_server::RenderNode,
    },
};
use futures::{Stream, StreamExt as _, stream};
use tokio::time;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    batch::Superseded,
    core::{BatchId, Call, Refusal},
    node::Node,
    request,
};

/// Shortest time between two messages of WatchNode: ten a second.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Whose reasons the error details carry.
const ERROR_DOMAIN: &str = "framecrew";

/// RenderNode over tonic.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Names the node and the incarnation that answer: an earlier incarnation may have known the batch, and so may the
    /// node that had this address before.
    fn unknown(&self, batch_id: u64) -> Status {
        let who = [
            ("node".to_owned(), self.node.name.to_string()),
            ("incarnation".to_owned(), self.node.incarnation.to_string()),
        ];
        Status::with_error_details(
            Code::NotFound,
            format!("batch {} is not known on this node", BatchName(batch_id)),
            ErrorDetails::with_error_info("UNKNOWN_BATCH", ERROR_DOMAIN, who),
        )
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RenderNode for Service {
    type RenderBatchStream = Messages<RenderBatchResponse>;
    type AttachBatchStream = Messages<AttachBatchResponse>;
    type WatchNodeStream = Messages<WatchNodeResponse>;

    async fn render_batch(
        &self,
        request: Request<RenderBatchRequest>,
    ) -> Result<Response<Self::RenderBatchStream>, Status> {
        let request = request.into_inner();
        if !request.node.is_empty() && request.node != self.node.name {
            return Err(other_node(&request.node, &self.node.name));
        }
        let epoch = request.epoch;
        let settled = request.settled_batch_ids.clone();
        let work = request::parse(request).map_err(|status| *status)?;
        let batch = self.node.accept(work, epoch, &settled).await?;
        let messages = batch.attach(0).map(|events| Ok(RenderBatchResponse { events: events? }));
        Ok(Response::new(messages.boxed()))
    }

    async fn attach_batch(
        &self,
        request: Request<AttachBatchRequest>,
    ) -> Result<Response<Self::AttachBatchStream>, Status> {
        let request = request.into_inner();
        let call = Call {
            batch: BatchId(request.batch_id),
            store_id: request.store_id,
            epoch: request.epoch,
        };
        let batch = self.node.attach(call).await?.ok_or_else(|| {
            // The orchestrator must learn of the clean exit before it learns that this process does not know the batch.
            match self.node.goodbye.owed_by() {
                Some(_) => Status::unavailable("an earlier incarnation is still deregistering"),
                None => self.unknown(request.batch_id),
            }
        })?;
        let messages = batch
            .attach(request.after_sequence)
            .map(|events| Ok(AttachBatchResponse { events: events? }));
        Ok(Response::new(messages.boxed()))
    }

    async fn cancel_batch(
        &self,
        request: Request<CancelBatchRequest>,
    ) -> Result<Response<CancelBatchResponse>, Status> {
        let CancelBatchRequest { batch_id: id, store_id } = request.into_inner();
        // A cancellation carries no epoch: the core does not compare it.
        let call = Call { batch: BatchId(id), store_id, epoch: u64::MAX };
        if self.node.cancel(call).await? {
            Ok(Response::new(CancelBatchResponse {}))
        } else {
            Err(self.unknown(id))
        }
    }

    async fn describe_node(
        &self,
        _: Request<DescribeNodeRequest>,
    ) -> Result<Response<DescribeNodeResponse>, Status> {
        Ok(Response::new(DescribeNodeResponse {
            name: self.node.name.clone(),
            description: Some(self.node.description()),
            status: Some(self.node.status()),
        }))
    }

    async fn watch_node(
        &self,
        _: Request<WatchNodeRequest>,
    ) -> Result<Response<Self::WatchNodeStream>, Status> {
        let node = self.node.clone();
        let mut changed = node.watch();
        changed.mark_changed();
        let statuses = stream::unfold((node.clone(), changed, None), async |state| {
            let (node, mut changed, last) = state;
            loop {
                changed.changed().await.ok()?;
                let status = node.status();
                if last.as_ref() != Some(&status) {
                    let response = WatchNodeResponse { status: Some(status.clone()) };
                    return Some((Ok(response), (node, changed, Some(status))));
                }
            }
        });
        let paced = statuses.then(async |message| {
            time::sleep(WATCH_INTERVAL).await;
            message
        });
        let stopped = node.stopping.clone().cancelled_owned();
        Ok(Response::new(paced.take_until(stopped).boxed()))
    }
}

/// The caller means a node that had this address before, or this one under its former name.
fn other_node(meant: &str, name: &str) -> Status {
    let node = [("node".to_owned(), name.to_owned())];
    Status::with_error_details(
        Code::FailedPrecondition,
        format!(
            "this is node {name}, not {meant}; {meant} has to register again, with its present address"
        ),
        ErrorDetails::with_error_info("OTHER_NODE", ERROR_DOMAIN, node),
    )
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let exhausted = |reason: &str, message: &str| {
            let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
            Status::with_error_details(Code::ResourceExhausted, message, details)
        };
        let unable = |reason: &str, message: &str| {
            let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
            Status::with_error_details(Code::FailedPrecondition, message, details)
        };
        match refusal {
            Refusal::StaleEpoch { .. } | Refusal::StaleBatch(_) => Status::aborted(message),
            Refusal::Known(_) => Status::already_exists(message),
            Refusal::ShuttingDown | Refusal::Draining => {
                let details = ErrorDetails::with_error_info("LEAVING", ERROR_DOMAIN, []);
                Status::with_error_details(Code::Unavailable, message, details)
            }
            // Registering takes a moment: its first batch may overtake the answer.
            Refusal::NoLease | Refusal::OtherStore | Refusal::Unequipped => {
                Status::unavailable(message)
            }
            Refusal::Scripts => unable("SCRIPTS", &message),
            Refusal::NoFfmpeg => unable("FFMPEG", &message),
            Refusal::SlotsFull => exhausted("SLOTS", &message),
            Refusal::DiskLow { .. } | Refusal::OutboxFull { .. } => exhausted("DISK", &message),
        }
    }
}

impl From<Superseded> for Status {
    fn from(superseded: Superseded) -> Self {
        Status::aborted(superseded.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_batch_is_unknown_only_after_its_incarnation_has_deregistered() {
        let (node, _folder) = crate::owner::tests::node(0).await;
        let service = Service::new(node.clone());
        let attach = async || {
            let request = AttachBatchRequest { batch_id: 7, epoch: 1, ..Default::default() };
            service.attach_batch(Request::new(request)).await.err().unwrap()
        };
        node.goodbye.owe("node".into(), 1, "store".into());
        assert_eq!(attach().await.code(), Code::Unavailable);
        node.goodbye.said(1);
        let unknown = attach().await;
        assert_eq!(unknown.code(), Code::NotFound);
        let who = unknown.get_details_error_info().unwrap().metadata;
        assert_eq!((who["node"].as_str(), who["incarnation"].as_str()), ("node", "1"));
    }

    #[tokio::test]
    async fn a_batch_that_is_meant_for_another_node_is_refused_by_name() {
        let (node, _folder) = crate::owner::tests::node(0).await;
        let service = Service::new(node);
        let request = RenderBatchRequest { node: "other".to_owned(), ..Default::default() };
        let refused = service.render_batch(Request::new(request)).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.get_details_error_info().unwrap().metadata["node"], "node");
    }

    #[test]
    fn every_refusal_has_its_status() {
        let low = Refusal::DiskLow { free_bytes: 1, needed_bytes: 2 };
        for (refusal, code, reason) in [
            (Refusal::StaleEpoch { given: 1, seen: 2 }, Code::Aborted, None),
            (Refusal::StaleBatch(BatchId(1)), Code::Aborted, None),
            (Refusal::Known(BatchId(1)), Code::AlreadyExists, None),
            (Refusal::ShuttingDown, Code::Unavailable, Some("LEAVING")),
            (Refusal::NoLease, Code::Unavailable, None),
            (Refusal::OtherStore, Code::Unavailable, None),
            (Refusal::Unequipped, Code::Unavailable, None),
            (Refusal::Scripts, Code::FailedPrecondition, Some("SCRIPTS")),
            (Refusal::NoFfmpeg, Code::FailedPrecondition, Some("FFMPEG")),
            (Refusal::SlotsFull, Code::ResourceExhausted, Some("SLOTS")),
            (Refusal::Draining, Code::Unavailable, Some("LEAVING")),
            (Refusal::OutboxFull { bytes: 1 }, Code::ResourceExhausted, Some("DISK")),
            (low, Code::ResourceExhausted, Some("DISK")),
        ] {
            let status = Status::from(refusal);
            assert_eq!(status.code(), code);
            let info = status.get_details_error_info();
            assert_eq!(info.map(|info| info.reason).as_deref(), reason);
        }
    }
}

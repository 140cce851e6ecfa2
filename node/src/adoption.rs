//! Hands in finished frames that nobody asks for any more: of batches that were given up, and of an earlier life.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use framecrew_blobs::{Digest, TransferError};
use framecrew_proto::{
    BatchName,
    v1::{
        AdoptFramesRequest, Adoption, OrphanedFrame, SliceFinished,
        orchestrator_client::OrchestratorClient,
    },
};
use prost::Message as _;
use tokio::{sync::mpsc, task, time};
use tonic::{Code, Status, transport::Channel};
use tracing::{info, warn};

use crate::{
    backoff::jittered,
    core::{Event, JournalId},
    membership::in_time,
    node::Node,
    outbox::{Origin, Outbox, blobs_of},
    uploads::{self, Uploads},
};

/// Frames that are offered in one call: the protocol's bound.
const FRAMES_MAX: usize = 512;

/// Bytes of the frames in one call: far below the 4 MiB that gRPC receivers take by default.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// How often frames are offered whose blobs the orchestrator calls missing although they were uploaded.
const TRIES_MAX: usize = 3;

/// First and longest pause after the orchestrator could not be asked.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Why frames are still on the disk.
#[derive(Debug, thiserror::Error)]
enum NotHandedIn {
    #[error("the orchestrator did not take them: {}", .0.message())]
    Orchestrator(Status),
    #[error("their files could not be stored: {0}")]
    Store(TransferError),
    #[error("they cannot be read: {0}")]
    Disk(io::Error),
    #[error("the orchestrator says that their files are missing, which were stored a moment ago")]
    Missing,
}

/// Offers the frames of each journal that the owner sends, for as long as the node runs.
pub(crate) async fn hand_in(
    node: Arc<Node>,
    channel: Channel,
    mut offers: mpsc::Receiver<JournalId>,
) {
    let rpc = OrchestratorClient::new(channel);
    let mut pause = PAUSE_MIN;
    let mut well = true;
    while let Some(journal) = offers.recv().await {
        // The journal's own: the node may have another store by the time that the call is sent.
        let store_id = node.outbox.store_id(journal);
        let ask = |frames| {
            let request = AdoptFramesRequest {
                name: node.name.clone(),
                incarnation: node.incarnation,
                store_id: store_id.clone(),
                frames,
            };
            let mut rpc = rpc.clone();
            async move { Ok(in_time(rpc.adopt_frames(request)).await?.adoptions) }
        };
        let offered = offer(&node.outbox, &node.uploads, journal, ask).await;
        match &offered {
            Ok(()) => (pause, well) = (PAUSE_MIN, true),
            Err(error) => {
                if std::mem::take(&mut well) {
                    warn!(%error, "finished frames are not handed in yet; keeping them, still retrying");
                }
                time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        node.tell(Event::OfferOver { journal, is_handed_in: offered.is_ok() }).await;
    }
}

/// What became of the frames of one journal.
#[derive(Debug, Default)]
struct Tally {
    adopted: usize,
    unwanted: usize,
    /// Their files are damaged or gone.
    lost: usize,
    /// Why a frame could not be stored; it must stay on the disk.
    held_back: Option<NotHandedIn>,
}

/// Offers the frames of a journal. Returns when each of them has its answer.
async fn offer<A: Future<Output = Result<Vec<i32>, Status>>>(
    outbox: &Outbox,
    uploads: &Uploads,
    journal: JournalId,
    ask: impl Fn(Vec<OrphanedFrame>) -> A,
) -> Result<(), NotHandedIn> {
    let Some((origin, mut open)) = outbox.read(journal).map_err(NotHandedIn::Disk)? else {
        return Ok(());
    };
    let (job, batch) = (origin.job_id, BatchName(origin.batch_id));
    let mut tally = Tally::default();
    for _ in 0..TRIES_MAX {
        let missing = ask_for_all(&origin, open, &ask, &mut tally).await?;
        open = store_all(outbox, uploads, missing, &mut tally).await?;
        if open.is_empty() {
            if let Some(error) = tally.held_back {
                return Err(error);
            }
            let Tally { adopted, unwanted, lost, .. } = tally;
            if lost > 0 {
                warn!(%batch, lost, "files of finished frames are damaged or gone");
            }
            info!(%batch, job, adopted, unwanted, "handed in what had been finished");
            return Ok(());
        }
    }
    Err(NotHandedIn::Missing)
}

/// Asks the orchestrator about frames. Returns those whose blobs it lacks.
async fn ask_for_all<A: Future<Output = Result<Vec<i32>, Status>>>(
    origin: &Origin,
    frames: Vec<SliceFinished>,
    ask: impl Fn(Vec<OrphanedFrame>) -> A,
    tally: &mut Tally,
) -> Result<Vec<SliceFinished>, NotHandedIn> {
    let job_id = origin.job_id;
    let mut missing = Vec::new();
    let mut groups = VecDeque::from(groups(frames));
    while let Some(group) = groups.pop_front() {
        let offered =
            group.iter().map(|frame| OrphanedFrame { job_id, finished: Some(frame.clone()) });
        let answers = match ask(offered.collect()).await {
            Ok(answers) if answers.len() == group.len() => answers,
            Ok(_) => {
                let status = Status::internal("it answered for other frames");
                return Err(NotHandedIn::Orchestrator(status));
            }
            // One faulty frame is no reason to lose the others.
            Err(status) if status.code() == Code::InvalidArgument && group.len() > 1 => {
                groups.extend(group.into_iter().map(|frame| vec![frame]));
                continue;
            }
            Err(status) if is_final(&status) => {
                let batch = BatchName(origin.batch_id);
                warn!(%batch, reason = status.message(), "finished frames are refused");
                tally.unwanted += group.len();
                continue;
            }
            Err(status) => return Err(NotHandedIn::Orchestrator(status)),
        };
        for (frame, answer) in group.into_iter().zip(answers) {
            match Adoption::try_from(answer) {
                Ok(Adoption::Adopted) => tally.adopted += 1,
                Ok(Adoption::Unwanted) => tally.unwanted += 1,
                Ok(Adoption::BlobsMissing) => missing.push(frame),
                Ok(Adoption::Unspecified) | Err(_) => {
                    let status = Status::internal("its answer has no meaning");
                    return Err(NotHandedIn::Orchestrator(status));
                }
            }
        }
    }
    Ok(missing)
}

/// Stores the blobs of frames. Returns the frames that can be offered again.
async fn store_all(
    outbox: &Outbox,
    uploads: &Uploads,
    missing: Vec<SliceFinished>,
    tally: &mut Tally,
) -> Result<Vec<SliceFinished>, NotHandedIn> {
    let mut stored = Vec::new();
    for frame in missing {
        match upload(outbox, uploads, &frame).await {
            Ok(true) => stored.push(frame),
            Ok(false) => tally.lost += 1,
            // One bad sector, here or there, is no reason to hold back the others.
            Err(error @ NotHandedIn::Disk(_)) => tally.held_back = Some(error),
            Err(NotHandedIn::Store(error)) if uploads::is_broken(&error) => {
                tally.held_back = Some(NotHandedIn::Store(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(stored)
}

/// Whether the same frames get the same answer for ever. An orchestrator that knows no such call adopts nothing.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::Unimplemented)
}

/// Stores a frame's blobs. False: they are not what they were, or not there. Any other trouble, of a disk's or of the
/// store's, can be mended, and must not cost the frame.
async fn upload(
    outbox: &Outbox,
    uploads: &Uploads,
    frame: &SliceFinished,
) -> Result<bool, NotHandedIn> {
    let files: Vec<_> =
        blobs_of(frame).map(|(digest, bytes)| (outbox.place(digest), digest, bytes)).collect();
    let checked = files.clone();
    let whole = task::spawn_blocking(move || {
        for (path, digest, bytes) in checked {
            match Digest::of_file(&path) {
                Ok(found) if found == (digest, bytes) => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    });
    if !whole.await.map_err(io::Error::other).flatten().map_err(NotHandedIn::Disk)? {
        return Ok(false);
    }
    match uploads.store_files(files).await {
        Ok(()) => Ok(true),
        Err(TransferError::Changed { .. }) => Ok(false),
        Err(error) => Err(NotHandedIn::Store(error)),
    }
}

/// Frames in groups that fit in a call.
fn groups(frames: Vec<SliceFinished>) -> Vec<Vec<SliceFinished>> {
    let mut groups: Vec<Vec<SliceFinished>> = Vec::new();
    let mut bytes = 0;
    for frame in frames {
        let more = frame.encoded_len();
        match groups.last_mut() {
            Some(group) if group.len() < FRAMES_MAX && bytes + more <= FRAME_BYTES_MAX => {
                bytes += more;
                group.push(frame);
            }
            _ => {
                bytes = more;
                groups.push(vec![frame]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{future::ready, path::Path, sync::Mutex};

    use bytes::Bytes;
    use framecrew_blobs::BlobClient;
    use framecrew_proto::v1::{Output, Slice};
    use tonic::transport::Endpoint;

    use super::*;
    use crate::{
        core::{BatchId, BatchKey},
        outbox::{OUTBOX_BYTES, Origin},
        output::{Blob, Content},
    };

    fn open(folder: &Path) -> Outbox {
        Outbox::open(folder.join("outbox"), 1, OUTBOX_BYTES).unwrap()
    }

    /// A store that cannot be reached.
    fn nowhere() -> Uploads {
        let channel = Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
        Uploads::new(BlobClient::new(channel))
    }

    const JOURNAL: JournalId = JournalId::Of(BatchKey { binding: 0, id: BatchId(9) });

    /// Frames of a batch that was abandoned.
    fn abandoned(outbox: &Outbox, frames: i32) {
        let origin = Origin { store_id: "store".into(), job_id: 7, batch_id: 9 };
        for frame in 1..=frames {
            let content = Bytes::from(frame.to_string());
            let (digest, size_bytes) = (Digest::of(&content), content.len() as u64);
            let output = Output { digest: digest.to_string(), size_bytes, ..Output::default() };
            let finished = SliceFinished {
                slice: Some(Slice { frame, index: 0 }),
                outputs: vec![output],
                ..SliceFinished::default()
            };
            let blob = Blob { digest, size_bytes, content: Content::Memory(content) };
            outbox.keep(JOURNAL, &origin, &finished, &mut [blob]).unwrap();
        }
        outbox.close(JOURNAL);
    }

    async fn offer_to(
        outbox: &Outbox,
        answer: impl Fn(&OrphanedFrame) -> Result<Adoption, Status>,
    ) -> Result<(), NotHandedIn> {
        let ask = |frames: Vec<OrphanedFrame>| {
            ready(frames.iter().map(|frame| answer(frame).map(i32::from)).collect())
        };
        offer(outbox, &nowhere(), JOURNAL, ask).await
    }

    #[tokio::test]
    async fn frames_are_offered_in_groups_until_each_has_its_answer() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path());
        abandoned(&outbox, 1_000);
        let asked = Mutex::new(Vec::new());
        let ask = |frames: Vec<OrphanedFrame>| {
            asked.lock().unwrap().push(frames.len());
            assert_eq!(frames[0].job_id, 7);
            let answer = |(n, _): (usize, _)| [Adoption::Adopted, Adoption::Unwanted][n % 2].into();
            ready(Ok(frames.iter().enumerate().map(answer).collect()))
        };
        offer(&outbox, &nowhere(), JOURNAL, ask).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), [512, 488]);
    }

    #[tokio::test]
    async fn frames_without_an_answer_stay_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path());
        abandoned(&outbox, 3);
        let away = |_: &OrphanedFrame| Err(Status::unavailable("away"));
        assert!(offer_to(&outbox, away).await.is_err());
        assert_eq!(outbox.kept().frames, 3);
        let second_away = |frame: &OrphanedFrame| match frame.finished.as_ref().unwrap().slice {
            Some(Slice { frame: 2, .. }) => Err(Status::unavailable("away")),
            _ => Ok(Adoption::Adopted),
        };
        assert!(offer_to(&outbox, second_away).await.is_err());
        // Its blobs cannot be stored: there is no store.
        assert!(offer_to(&outbox, |_| Ok(Adoption::BlobsMissing)).await.is_err());
        assert!(offer_to(&outbox, |_| Ok(Adoption::Unspecified)).await.is_err());
        assert_eq!(outbox.kept().frames, 3);
        let kept = open(folder.path());
        assert_eq!((kept.kept().frames, kept.kept().bytes), (3, 3));
        let (_, frames) = kept.read(JournalId::Found(0)).unwrap().unwrap();
        assert_eq!(frames.len(), 3);
        offer_to(&outbox, |_| Ok(Adoption::Unwanted)).await.unwrap();
    }

    #[tokio::test]
    async fn a_faulty_frame_does_not_cost_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path());
        abandoned(&outbox, 5);
        let adopted = Mutex::new(Vec::new());
        let third_is_faulty = |frame: &OrphanedFrame| {
            let number = frame.finished.as_ref().unwrap().slice.unwrap().frame;
            if number == 3 {
                return Err(Status::invalid_argument("frames[2] is faulty"));
            }
            adopted.lock().unwrap().push(number);
            Ok(Adoption::Adopted)
        };
        offer_to(&outbox, third_is_faulty).await.unwrap();
        // The first two were looked at in the group that was refused, too.
        assert_eq!(adopted.lock().unwrap().split_off(2), [1, 2, 4, 5]);
    }

    #[tokio::test]
    async fn frames_whose_files_are_damaged_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path());
        abandoned(&outbox, 1);
        std::fs::write(outbox.place(Digest::of(b"1")), "2").unwrap();
        offer_to(&outbox, |_| Ok(Adoption::BlobsMissing)).await.unwrap();
    }

    #[tokio::test]
    async fn frames_whose_files_cannot_be_read_stay_on_the_disk_and_hold_no_others_back() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path());
        abandoned(&outbox, 2);
        // It is there, and nothing can be read of it.
        let (first, second) = (outbox.place(Digest::of(b"1")), outbox.place(Digest::of(b"2")));
        std::fs::remove_file(&first).unwrap();
        std::fs::create_dir(&first).unwrap();
        let missing = |_: &OrphanedFrame| Ok(Adoption::BlobsMissing);
        // The other one is read: what it lacks is the store.
        let error = offer_to(&outbox, missing).await.unwrap_err();
        assert!(matches!(error, NotHandedIn::Store(_)), "{error}");
        std::fs::remove_file(second).unwrap();
        let error = offer_to(&outbox, missing).await.unwrap_err();
        assert!(matches!(error, NotHandedIn::Disk(_)), "{error}");
        assert_eq!(outbox.kept().frames, 2);
    }
}

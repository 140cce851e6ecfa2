//! Requirements, cancellation and revisions.

use super::*;

#[test]
fn requirements_are_respected() {
    let cluster = Cluster::new()
        .node_with("old", "3.4.1", &["gpu"])
        .node_with("plain", "4.5.15", &[])
        .node_with("right", "4.5.15", &["big", "gpu"])
        .requires("4.5", &["gpu"])
        .job(1..=5)
        .assert_finished();
    assert!(cluster.batches_of("old").is_empty() && cluster.batches_of("plain").is_empty());
}

#[test]
fn a_job_that_no_node_can_render_does_not_hold_up_the_next() {
    let cluster = Cluster::new().node("a").priority(9).requires("9.9", &[]).job(1..=5);
    let mut cluster = cluster.passes(1.0);
    cluster.requirements.blender = None;
    let cluster = cluster.job(1..=5).passes(10.0);
    assert_eq!(cluster.world.invariants.state(JobId(2)), JobState::Finished);
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Queued);
}

#[test]
fn a_cancelled_job_commits_nothing_more_and_frees_its_nodes() {
    let cluster = Cluster::new().node("a").node("b").job(1..=100).passes(3.5).cancel(1);
    let finished = cluster.world.invariants.frames(JobId(1), FrameState::Finished);
    let cluster = cluster.passes(0.1);
    assert!(cluster.rendering("a").is_empty() && cluster.rendering("b").is_empty());
    let cluster = cluster.ends();
    assert_eq!(cluster.world.invariants.frames(JobId(1), FrameState::Finished), finished);
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Cancelled);
}

#[test]
fn what_is_noted_of_a_job_takes_a_revision_and_starts_nothing() {
    let revisions = |cluster: &Cluster| {
        cluster.history(|action| match action {
            Action::UpdateJob { revision, .. } => Some(*revision),
            _ => None,
        })
    };
    let cluster = Cluster::new().node("a").job(1..=2).passes(0.5);
    let before = cluster.world.history.len();
    let cluster = cluster.revise(1);
    assert_eq!(cluster.world.history.len(), before + 1);
    let noted = revisions(&cluster).pop().unwrap();
    assert_eq!(
        revisions(&cluster),
        [2, noted],
        "giving the first frame away was the change before"
    );
    // The frames' own revisions come after it, also in another life.
    let cluster = cluster.restart().assert_finished();
    assert_eq!(revisions(&cluster).pop(), Some(noted + 2));
    // A job that is over has its last revision.
    let before = cluster.world.history.len();
    assert_eq!(cluster.revise(1).world.history.len(), before);
}

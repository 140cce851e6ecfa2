//! The node's rules, a sentence each, and random events against its invariants.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A node of one slot, registered with the store "store", with a lease of a minute.
struct Registered {
    core: Core,
    now: Time,
}

impl Registered {
    fn new() -> Self {
        let mut node = Self { core: Core::new(1, false, Vec::new()), now: MINUTE };
        node.hears(Event::Equipped { has_ffmpeg: false });
        node.registers("store", 0, 0);
        node
    }

    #[track_caller]
    fn hears(&mut self, event: Event) -> Vec<Action> {
        let actions = self.core.handle(self.now, event);
        self.core.check_invariants();
        actions
    }

    fn registers(&mut self, store: &str, epoch: u64, first_batch: u64) -> Vec<Action> {
        let grant = Grant { sent: self.now, ttl: MINUTE };
        self.hears(Event::Registered(Registration {
            grant,
            store_id: store.to_owned(),
            epoch,
            first_batch: BatchId(first_batch),
            abandon: Vec::new(),
        }))
    }

    fn beats(&mut self) -> Vec<Action> {
        let grant = Grant { sent: self.now, ttl: MINUTE };
        self.hears(Event::LeaseRenewed { grant, epoch: 0, abandon: Vec::new() })
    }

    fn requested(&mut self, request: Request) -> Result<BatchKey, Refusal> {
        match &self.hears(Event::BatchRequested(request))[..] {
            [.., Action::Refuse(refusal)] => Err(refusal.clone()),
            actions => Ok(actions
                .iter()
                .find_map(|action| match action {
                    Action::Accept { batch } => Some(*batch),
                    _ => None,
                })
                .unwrap()),
        }
    }

    #[track_caller]
    fn accepts(&mut self, id: u64) -> BatchKey {
        self.requested(request(id)).unwrap()
    }

    fn refuses(&mut self, id: u64) -> Option<Refusal> {
        self.requested(request(id)).err()
    }

    fn may_publish(&mut self, batch: BatchKey) -> bool {
        let over = Event::SliceOver { batch, finished: Some(slice(1)) };
        self.hears(over).contains(&Action::Publish { batch })
    }

    /// What renders for a batch has ended.
    fn ends(&mut self, batch: BatchKey, is_complete: bool) -> Vec<Action> {
        self.hears(Event::BatchOver { batch, is_complete })
    }

    fn passes(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.hears(Event::TimePassed)
    }
}

fn request(id: u64) -> Request {
    Request {
        call: call(id, "store", 0),
        settled: Vec::new(),
        silence: Duration::ZERO,
        needs: Needs::default(),
        shortage: Shortage::default(),
    }
}

fn call(id: u64, store: &str, epoch: u64) -> Call {
    Call { batch: BatchId(id), store_id: store.to_owned(), epoch }
}

fn slice(frame: i32) -> Slice {
    Slice { frame, index: 0 }
}

fn killed(actions: &[Action]) -> Vec<u64> {
    let killed = actions.iter().filter_map(|action| match action {
        Action::Kill { batch, .. } => Some(batch.id.0),
        _ => None,
    });
    killed.collect()
}

fn concluded(actions: &[Action]) -> Vec<(u64, bool)> {
    let concluded = actions.iter().filter_map(|action| match action {
        Action::Conclude { batch, is_complete } => Some((batch.id.0, *is_complete)),
        _ => None,
    });
    concluded.collect()
}

fn deleted(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Delete { .. }))
}

fn offered(actions: &[Action]) -> Option<JournalId> {
    actions.iter().find_map(|action| match action {
        Action::Offer { journal } => Some(*journal),
        _ => None,
    })
}

#[test]
fn a_node_takes_no_work_without_a_lease_equipment_or_room() {
    let mut unequipped = Registered { core: Core::new(1, false, Vec::new()), now: MINUTE };
    assert_eq!(unequipped.refuses(1), Some(Refusal::NoLease));
    unequipped.registers("store", 0, 0);
    assert_eq!(unequipped.refuses(1), Some(Refusal::Unequipped));

    let mut node = Registered::new();
    let lacks = |shortage| Request { shortage, ..request(1) };
    let low = Shortage { disk: Some((1, 2)), outbox: None };
    let refusal = Refusal::DiskLow { free_bytes: 1, needed_bytes: 2 };
    assert_eq!(node.requested(lacks(low)), Err(refusal));
    let mut node = Registered::new();
    let full = Shortage { disk: None, outbox: Some(7) };
    assert_eq!(node.requested(lacks(full)), Err(Refusal::OutboxFull { bytes: 7 }));
    let mut node = Registered::new();
    let needs = |needs| Request { needs, ..request(2) };
    assert_eq!(
        node.requested(needs(Needs { scripts: true, ffmpeg: false })),
        Err(Refusal::Scripts)
    );
    let mut node = Registered::new();
    assert_eq!(
        node.requested(needs(Needs { scripts: false, ffmpeg: true })),
        Err(Refusal::NoFfmpeg)
    );
    node.hears(Event::Stopping);
    assert_eq!(node.refuses(3), Some(Refusal::ShuttingDown));
}

#[test]
fn a_slot_has_one_batch_that_renders_and_one_that_waits() {
    let mut node = Registered::new();
    let first = node.accepts(1);
    let second = node.accepts(2);
    assert_eq!(node.refuses(3), Some(Refusal::SlotsFull));
    assert!(node.may_publish(first) && !node.may_publish(second), "the second has no slot yet");
    let actions = node.ends(first, true);
    assert_eq!(concluded(&actions), [(1, true)]);
    assert!(actions.contains(&Action::Start { batch: second }));
    node.accepts(4);
}

#[test]
fn a_batch_that_only_stores_its_frames_needs_no_slot() {
    let mut node = Registered::new();
    let first = node.accepts(1);
    let second = node.accepts(2);
    assert!(
        node.hears(Event::SlotFreed { batch: first }).contains(&Action::Start { batch: second })
    );
    assert!(node.may_publish(first) && node.may_publish(second));
    assert_eq!(node.core.view().live, [BatchId(1), BatchId(2)]);
    assert_eq!(killed(&node.passes(MINUTE)), [1, 2], "nor does it outlast its time");
}

#[test]
fn a_batch_that_was_refused_or_called_unknown_comes_too_late() {
    let mut node = Registered::new();
    let unknown = node.hears(Event::BatchAttached(call(7, "store", 0)));
    assert_eq!(unknown, [Action::Unknown { batch: BatchId(7) }]);
    assert_eq!(node.refuses(7), Some(Refusal::StaleBatch(BatchId(7))));
    node.hears(Event::BatchCancelled(call(8, "store", 0)));
    assert_eq!(node.refuses(8), Some(Refusal::StaleBatch(BatchId(8))));
    node.accepts(1);
    node.accepts(2);
    assert_eq!(node.refuses(9), Some(Refusal::SlotsFull));
    node.hears(Event::BatchCancelled(call(2, "store", 0)));
    assert_eq!(node.refuses(9), Some(Refusal::StaleBatch(BatchId(9))), "others have it by now");
    node.registers("store", 0, 12);
    assert_eq!(node.refuses(11), Some(Refusal::StaleBatch(BatchId(11))));
    node.accepts(12);
}

#[test]
fn a_known_batch_is_attached_to_and_not_rendered_twice() {
    let mut node = Registered::new();
    let batch = node.accepts(1);
    assert_eq!(node.refuses(1), Some(Refusal::Known(BatchId(1))));
    assert_eq!(node.hears(Event::BatchAttached(call(1, "store", 0))), [Action::Attach { batch }]);
}

#[test]
fn an_epoch_once_seen_makes_older_ones_stale() {
    let mut node = Registered::new();
    node.registers("store", 5, 0);
    let stale = Refusal::StaleEpoch { given: 4, seen: 5 };
    let attach = |node: &mut Registered, store, epoch| {
        node.hears(Event::BatchAttached(call(1, store, epoch)))
    };
    assert_eq!(attach(&mut node, "store", 4), [Action::Refuse(stale.clone())]);
    assert_eq!(attach(&mut node, "", 4), [Action::Refuse(stale.clone())], "it names no store");
    // Registering again does not take it back.
    node.registers("store", 4, 0);
    assert_eq!(attach(&mut node, "store", 4), [Action::Refuse(stale)]);
    assert_eq!(
        attach(&mut node, "store", 6),
        [Action::ForgetUploads, Action::Unknown { batch: BatchId(1) }]
    );
}

#[test]
fn a_caller_before_the_first_registration_fences_nobody() {
    let mut node = Registered { core: Core::new(1, false, Vec::new()), now: MINUTE };
    let attached = node.hears(Event::BatchAttached(call(7, "a former one", 900)));
    assert_eq!(attached, [Action::Unknown { batch: BatchId(7) }]);
    node.hears(Event::Equipped { has_ffmpeg: false });
    node.registers("store", 5, 0);
    assert!(node.requested(Request { call: call(8, "store", 5), ..request(8) }).is_ok());
}

#[test]
fn another_store_ends_the_former_ones_batches() {
    let mut node = Registered::new();
    node.registers("store", 900, 100);
    let at = |id, store, epoch| Request { call: call(id, store, epoch), ..request(id) };
    let former = node.requested(at(101, "store", 900)).unwrap();
    node.hears(Event::SliceKept { batch: former, slice: slice(1) });
    node.hears(Event::BatchAttached(call(7, "store", 900)));
    let actions = node.registers("another", 5, 6);
    assert_eq!(killed(&actions), [101]);
    assert!(actions.contains(&Action::ForgetUploads));
    assert_eq!(node.core.view().held, []);
    assert!(!node.may_publish(former));
    // What the former one still asks changes nothing, however high its epoch is.
    assert_eq!(node.requested(at(102, "store", 901)), Err(Refusal::OtherStore));
    let unknown = node.hears(Event::BatchAttached(call(101, "store", 901)));
    assert_eq!(unknown, [Action::Unknown { batch: BatchId(101) }]);
    let ours = node.requested(at(7, "another", 5)).unwrap();
    assert_eq!(node.requested(at(5, "another", 5)), Err(Refusal::StaleBatch(BatchId(5))));
    // Only the end of the former store's batch makes its slot free.
    let actions = node.ends(former, true);
    assert_eq!(concluded(&actions), [(101, false)]);
    assert!(actions.contains(&Action::Start { batch: ours }));
    assert!(deleted(&actions), "its frames are another store's");
}

#[test]
fn a_lease_counts_from_when_the_answered_call_was_sent() {
    let mut node = Registered::new();
    let sent = node.now;
    node.now += Duration::from_secs(50);
    let grant = Grant { sent, ttl: MINUTE };
    node.hears(Event::LeaseRenewed { grant, epoch: 0, abandon: Vec::new() });
    assert_eq!(node.core.next_deadline(), Some(sent + MINUTE));
    node.passes(Duration::from_secs(10));
    assert!(!node.core.view().is_leased);
    assert_eq!(node.refuses(1), Some(Refusal::NoLease));
}

#[test]
fn a_late_answer_does_not_shorten_a_lease() {
    let mut node = Registered::new();
    let late = Grant { sent: node.now - Duration::from_secs(30), ttl: MINUTE };
    node.hears(Event::LeaseRenewed { grant: late, epoch: 0, abandon: Vec::new() });
    node.passes(Duration::from_secs(59));
    assert!(node.core.view().is_leased);
}

#[test]
fn a_batch_that_bears_more_silence_outlasts_the_lease() {
    let mut node = Registered::new();
    let patient = Request { silence: Duration::from_secs(90), ..request(1) };
    let patient = node.requested(patient).unwrap();
    // One that bears less than the lease has the lease all the same.
    let brief = node.requested(Request { silence: Duration::from_secs(1), ..request(2) });
    node.passes(Duration::from_secs(59));
    assert_eq!(node.core.view().live, [BatchId(1), BatchId(2)]);
    let actions = node.passes(Duration::from_secs(2));
    assert_eq!(concluded(&actions), [(brief.unwrap().id.0, false)]);
    assert!(actions.contains(&Action::KillIdle));
    assert!(node.may_publish(patient));
    assert_eq!(node.core.next_deadline(), Some(MINUTE + Duration::from_secs(90)));
    assert!(killed(&node.passes(Duration::from_secs(28))).is_empty());
    // Counted from the same moment as the lease.
    assert_eq!(killed(&node.passes(Duration::from_secs(1))), [1]);
    assert!(!node.may_publish(patient));
}

#[test]
fn a_node_that_slept_through_its_lease_does_not_get_its_batches_back() {
    let mut node = Registered::new();
    let batch = node.accepts(1);
    let patient = Request { silence: 60 * MINUTE, ..request(2) };
    node.requested(patient).unwrap();
    node.now += 2 * MINUTE;
    // The first thing that it hears is the answer to a heartbeat of just now.
    assert_eq!(killed(&node.beats()), [1]);
    assert!(node.core.view().is_leased);
    assert!(!node.may_publish(batch), "a new lease does not bring it back");
    assert_eq!(node.core.view().live, [BatchId(1), BatchId(2)], "its job waits longer");
    assert_eq!(concluded(&node.ends(batch, true)), [(1, false)]);
}

#[test]
fn a_report_after_the_deadline_is_not_published() {
    let mut node = Registered::new();
    let batch = node.accepts(1);
    node.now += MINUTE;
    assert!(!node.may_publish(batch), "nothing had been noticed before");
    let starting = node.hears(Event::SliceStarting { batch });
    assert!(!starting.contains(&Action::Publish { batch }));
}

#[test]
fn a_node_that_drains_finishes_what_it_renders_and_hands_back_the_rest() {
    let mut node = Registered::new();
    let running = node.accepts(1);
    node.accepts(2);
    assert_eq!(concluded(&node.hears(Event::Draining)), [(2, false)]);
    assert_eq!(node.refuses(3), Some(Refusal::Draining));
    assert!(node.may_publish(running));
    assert!(node.hears(Event::SliceStarting { batch: running }).is_empty(), "no further slice");
    assert_eq!(concluded(&node.ends(running, false)), [(1, false)]);
}

#[test]
fn a_batch_that_is_abandoned_is_held_until_its_renderer_is_dead() {
    let mut node = Registered::new();
    let batch = node.accepts(1);
    node.hears(Event::SliceKept { batch, slice: slice(1) });
    let grant = Grant { sent: node.now, ttl: MINUTE };
    let abandon = vec![BatchId(1)];
    let actions = node.hears(Event::LeaseRenewed { grant, epoch: 0, abandon });
    assert_eq!(killed(&actions), [1]);
    assert_eq!(node.core.view().held, [BatchId(1)]);
    let actions = node.ends(batch, false);
    assert!(actions.contains(&Action::Forget { batch }));
    assert_eq!(offered(&actions), Some(JournalId::Of(batch)));
    assert_eq!(node.core.view().held, []);
}

#[test]
fn a_settled_batch_loses_its_frames_unless_one_was_not_reported() {
    let mut node = Registered::new();
    for (id, is_reported) in [(1, true), (2, false)] {
        let batch = node.accepts(id);
        node.hears(Event::SliceKept { batch, slice: slice(1) });
        if is_reported {
            assert!(node.may_publish(batch));
        }
        node.ends(batch, true);
        let settled = Request { settled: vec![BatchId(id)], ..request(id + 10) };
        let actions = node.hears(Event::BatchRequested(settled));
        assert!(actions.contains(&Action::Forget { batch }));
        assert_eq!(deleted(&actions), is_reported);
        assert_eq!(offered(&actions), (!is_reported).then_some(JournalId::Of(batch)));
        node.hears(Event::BatchCancelled(call(id + 10, "store", 0)));
        let next = node.core.view().held.iter().map(|id| node.core.key(*id)).next().unwrap();
        node.ends(next, false);
    }
}

#[test]
fn frames_of_an_earlier_incarnation_are_offered_until_they_have_an_answer() {
    let found = ["store", "another", "store"].map(Into::into).to_vec();
    let mut node = Registered { core: Core::new(1, false, found), now: MINUTE };
    assert_eq!(node.core.view().journals, 3);
    let actions = node.registers("store", 0, 0);
    assert_eq!(offered(&actions), Some(JournalId::Found(0)));
    let over = |journal, is_handed_in| Event::OfferOver { journal, is_handed_in };
    // The second one is another store's.
    let actions = node.hears(over(JournalId::Found(0), false));
    assert!(actions.contains(&Action::Delete { journal: JournalId::Found(1) }));
    assert_eq!(offered(&actions), Some(JournalId::Found(2)));
    let actions = node.hears(over(JournalId::Found(2), true));
    assert!(actions.contains(&Action::Delete { journal: JournalId::Found(2) }));
    assert_eq!(offered(&actions), Some(JournalId::Found(0)), "again");
    node.hears(over(JournalId::Found(0), true));
    assert_eq!(node.core.view().journals, 0);
}

#[test]
fn a_node_without_a_lease_offers_nothing() {
    let mut node = Registered::new();
    let batch = node.accepts(1);
    node.hears(Event::SliceKept { batch, slice: slice(1) });
    let mut actions = node.passes(MINUTE);
    actions.extend(node.ends(batch, false));
    let cancelled = node.hears(Event::BatchCancelled(call(1, "store", 0)));
    assert!(cancelled.contains(&Action::Forget { batch }));
    assert_eq!(offered(&actions).or(offered(&cancelled)), None);
    assert_eq!(offered(&node.beats()), Some(JournalId::Of(batch)));
}

#[test]
fn batches_that_nobody_settles_go_when_there_are_too_many() {
    let mut node = Registered::new();
    for id in 0..=KEPT_BATCHES_MAX as u64 {
        let batch = node.accepts(id);
        node.ends(batch, true);
    }
    let held = node.core.view().held;
    assert_eq!(held.len(), KEPT_BATCHES_MAX);
    assert!(!held.contains(&BatchId(0)), "the oldest");
}

/// What may happen to a node, in any order.
#[derive(Debug, Clone)]
enum Chance {
    Requested {
        id: u64,
        other_store: bool,
        silence: u64,
        settles: u64,
    },
    Attached {
        id: u64,
    },
    Cancelled {
        id: u64,
    },
    Registered {
        other_store: bool,
        ttl: u64,
        abandon: u64,
    },
    Renewed {
        sent_ago: u64,
        ttl: u64,
        abandon: u64,
    },
    /// The n-th running batch goes on: starts, keeps, reports, ends.
    Starts(usize),
    Keeps(usize, i32),
    Reports(usize, i32),
    Frees(usize),
    Ends(usize, bool),
    OfferOver(bool),
    Passes(u64),
    Returned,
    Drains,
    Stops,
}

fn chance() -> impl Strategy<Value = Chance> {
    let id = || 0..24_u64;
    prop_oneof![
        8 => (id(), prop::bool::weighted(0.1), 0..120_u64, id()).prop_map(
            |(id, other_store, silence, settles)| Chance::Requested { id, other_store, silence, settles }
        ),
        1 => id().prop_map(|id| Chance::Attached { id }),
        2 => id().prop_map(|id| Chance::Cancelled { id }),
        2 => (prop::bool::weighted(0.2), 0..90_u64, id())
            .prop_map(|(other_store, ttl, abandon)| Chance::Registered { other_store, ttl, abandon }),
        4 => (0..40_u64, 0..90_u64, id())
            .prop_map(|(sent_ago, ttl, abandon)| Chance::Renewed { sent_ago, ttl, abandon }),
        6 => (0..4_usize).prop_map(Chance::Starts),
        6 => (0..4_usize, 0..4).prop_map(|(nth, frame)| Chance::Keeps(nth, frame)),
        6 => (0..4_usize, 0..4).prop_map(|(nth, frame)| Chance::Reports(nth, frame)),
        2 => (0..4_usize).prop_map(Chance::Frees),
        5 => (0..4_usize, any::<bool>()).prop_map(|(nth, complete)| Chance::Ends(nth, complete)),
        4 => any::<bool>().prop_map(Chance::OfferOver),
        5 => (0..50_u64).prop_map(Chance::Passes),
        1 => Just(Chance::Returned),
        1 => prop::bool::weighted(0.2).prop_map(|drains| if drains { Chance::Drains } else { Chance::Passes(1) }),
        1 => prop::bool::weighted(0.1).prop_map(|stops| if stops { Chance::Stops } else { Chance::Passes(1) }),
    ]
}

/// What a node's surroundings know, to hold the core's actions against.
#[derive(Default)]
struct Witness {
    /// Batches that were started and have not ended, with what must be dead.
    running: Vec<BatchKey>,
    /// Those of them that need no slot any more.
    storing: BTreeSet<BatchKey>,
    killed: BTreeSet<BatchKey>,
    concluded: BTreeSet<BatchKey>,
    accepted: BTreeSet<BatchKey>,
    kept: BTreeMap<JournalId, BTreeSet<Slice>>,
    reported: BTreeMap<JournalId, BTreeSet<Slice>>,
    offered: Option<JournalId>,
    handed_in: BTreeSet<JournalId>,
    other_stores: BTreeSet<JournalId>,
}

impl Witness {
    fn sees(&mut self, core: &Core, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Accept { batch } => {
                    assert!(self.accepted.insert(*batch), "{batch:?} is accepted twice");
                }
                Action::Start { batch } => {
                    assert!(!self.concluded.contains(batch), "{batch:?} starts after its end");
                    self.running.push(*batch);
                    let storing = |batch: &&BatchKey| !self.storing.contains(*batch);
                    let busy = self.running.iter().filter(storing).count();
                    assert!(busy <= core.slots, "more batches render than there are slots");
                }
                Action::Publish { batch } => {
                    assert!(self.running.contains(batch), "{batch:?} reports and does not run");
                    assert!(!self.killed.contains(batch), "{batch:?} reports after it was killed");
                }
                Action::Kill { batch, .. } => {
                    assert!(self.running.contains(batch) && self.killed.insert(*batch));
                }
                Action::Conclude { batch, is_complete } => {
                    assert!(!self.running.contains(batch), "{batch:?} ends while it renders");
                    assert!(self.concluded.insert(*batch), "{batch:?} ends twice");
                    assert!(!(*is_complete && self.killed.contains(batch)));
                }
                Action::Offer { journal } => {
                    assert_eq!(self.offered.replace(*journal), None, "two journals are offered");
                }
                Action::Delete { journal } => {
                    let kept = self.kept.get(journal).cloned().unwrap_or_default();
                    let reported = self.reported.get(journal).cloned().unwrap_or_default();
                    assert!(
                        kept.is_subset(&reported)
                            || self.handed_in.contains(journal)
                            || self.other_stores.contains(journal),
                        "{journal:?} is deleted with frames that nobody has"
                    );
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold(
        slots in 1..3_u32,
        chances in prop::collection::vec(chance(), 1..200),
    ) {
        let mut core = Core::new(slots, false, Vec::new());
        let mut witness = Witness::default();
        let mut now = MINUTE;
        let seconds = Duration::from_secs;
        core.handle(now, Event::Equipped { has_ffmpeg: false });
        for chance in chances {
            let nth = |nth: usize| witness.running.get(nth % witness.running.len().max(1)).copied();
            let store = |other: bool| if other { "another" } else { "store" };
            let event = match chance {
                Chance::Requested { id, other_store, silence, settles } => {
                    Some(Event::BatchRequested(Request {
                        call: call(id, store(other_store), 1),
                        settled: vec![BatchId(settles)],
                        silence: seconds(silence),
                        ..request(id)
                    }))
                }
                Chance::Attached { id } => Some(Event::BatchAttached(call(id, "store", 1))),
                Chance::Cancelled { id } => Some(Event::BatchCancelled(call(id, "store", 1))),
                Chance::Registered { other_store, ttl, abandon } => {
                    if core.binding.is_another(store(other_store)) {
                        let kept = witness.kept.keys().copied();
                        witness.other_stores.extend(kept);
                    }
                    Some(Event::Registered(Registration {
                        grant: Grant { sent: now, ttl: seconds(ttl) },
                        store_id: store(other_store).to_owned(),
                        epoch: 1,
                        first_batch: BatchId(0),
                        abandon: vec![BatchId(abandon)],
                    }))
                }
                Chance::Renewed { sent_ago, ttl, abandon } => Some(Event::LeaseRenewed {
                    grant: Grant { sent: now - seconds(sent_ago), ttl: seconds(ttl) },
                    epoch: 1,
                    abandon: vec![BatchId(abandon)],
                }),
                Chance::Starts(n) => nth(n).map(|batch| Event::SliceStarting { batch }),
                Chance::Keeps(n, frame) => nth(n).map(|batch| {
                    witness.kept.entry(JournalId::Of(batch)).or_default().insert(slice(frame));
                    if batch.binding != core.binding.number {
                        witness.other_stores.insert(JournalId::Of(batch));
                    }
                    Event::SliceKept { batch, slice: slice(frame) }
                }),
                Chance::Reports(n, frame) => nth(n).map(|batch| {
                    Event::SliceOver { batch, finished: Some(slice(frame)) }
                }),
                Chance::Frees(n) => nth(n).map(|batch| {
                    witness.storing.insert(batch);
                    Event::SlotFreed { batch }
                }),
                Chance::Ends(n, is_complete) => nth(n).map(|batch| {
                    witness.running.retain(|running| *running != batch);
                    Event::BatchOver { batch, is_complete }
                }),
                Chance::OfferOver(is_handed_in) => witness.offered.take().map(|journal| {
                    if is_handed_in {
                        witness.handed_in.insert(journal);
                    }
                    Event::OfferOver { journal, is_handed_in }
                }),
                Chance::Passes(time) => {
                    now += seconds(time);
                    Some(Event::TimePassed)
                }
                Chance::Returned => Some(Event::LeaseReturned),
                Chance::Drains => Some(Event::Draining),
                Chance::Stops => Some(Event::Stopping),
            };
            let Some(event) = event else { continue };
            let actions = core.handle(now, event.clone());
            core.check_invariants();
            if let Event::SliceOver { batch, finished: Some(slice) } = event
                && actions.contains(&Action::Publish { batch })
            {
                witness.reported.entry(JournalId::Of(batch)).or_default().insert(slice);
            }
            witness.sees(&core, &actions);
        }
        // Each batch that was accepted ends when nothing renders any more.
        let stopping = core.handle(now, Event::Stopping);
        witness.sees(&core, &stopping);
        for batch in witness.running.clone() {
            witness.running.retain(|running| *running != batch);
            let actions = core.handle(now, Event::BatchOver { batch, is_complete: true });
            witness.sees(&core, &actions);
        }
        core.check_invariants();
        prop_assert_eq!(&witness.accepted, &witness.concluded);
    }
}

//! Decides whether a job's frames are drawn in order because one of their simulations is not baked.

use framecrew_blend::{Hazard, Scene};

use super::collection::Collection;
use framecrew_model::FrameSet;

use crate::{spec::JobSpec, words};

/// First line about simulations that are not baked, if one node draws the frames.
pub(crate) const IN_ORDER: &str =
    "a simulation is not baked: one node draws the frames in order; bake it to use all nodes";

/// First line about simulations that are not baked, if the frames are drawn separately.
pub(crate) const APART: &str = "a simulation is not baked, so frames that are drawn separately do not match; bake it and save, or let one node draw \
     all frames with --in-order on";

/// Describes the simulations that are not baked.
pub(crate) fn unbaked(collection: &Collection) -> Vec<String> {
    let named = collection.hazards().filter_map(|hazard| match hazard {
        Hazard::UnbakedSimulation { owner, what } => {
            Some(words::printable(&format!("the {what} of `{owner}`")).to_string())
        }
        _ => None,
    });
    named.collect()
}

/// Whether one node draws the frames in order. Frames that are named one by one are drawn each by itself, as Blender's
/// `-f` draws one; a range is an animation.
pub(crate) fn in_order(spec: &JobSpec, frames: &FrameSet, unbaked: &[String]) -> bool {
    let has_range = frames.ranges().iter().any(|range| range.count() > 1);
    spec.in_order.unwrap_or(!unbaked.is_empty() && has_range)
}

/// Returns why a strict job is refused: nobody chose that one node draws all frames.
pub(crate) fn fault(spec: &JobSpec, frames: &FrameSet, unbaked: &[String]) -> Option<String> {
    let undecided = spec.strict && spec.in_order.is_none() && in_order(spec, frames, unbaked);
    undecided.then(|| {
        format!(
            "is not rendered, because of --strict: {} {} not baked; bake it and save, or choose --in-order on to have one \
             node draw all frames in order",
            unbaked.iter().take(2).cloned().collect::<Vec<_>>().join(" and "),
            if unbaked.len() > 1 { "are" } else { "is" },
        )
    })
}

/// Returns why a strict job is refused: some of its frames show a simulation that a render does not compute.
pub(crate) fn fault_of_not_simulated(
    spec: &JobSpec,
    frames: &FrameSet,
    collection: &Collection,
    scene: &Scene,
) -> Option<String> {
    let is_it = |hazard: &&Hazard| hazard.lacks_at(frames.iter(), scene.first);
    let hazard = collection.hazards().find(is_it).filter(|_| spec.strict)?;
    Some(format!("is not rendered, because of --strict: {}", words::printable(&hazard.to_string())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn decided(choice: Option<bool>, frames: &str, unbaked: &[String]) -> (bool, bool) {
        let mut spec = JobSpec::animation("a.blend").strict(true);
        spec.in_order = choice;
        let frames = frames.parse().unwrap();
        (in_order(&spec, &frames, unbaked), fault(&spec, &frames, unbaked).is_some())
    }

    #[test]
    fn frames_are_drawn_in_order_for_an_unbaked_simulation_or_on_request() {
        let cloth = ["the cloth of `Flag`".to_owned()];
        assert_eq!(decided(None, "1-9", &cloth), (true, true), "strict jobs want a choice");
        assert_eq!(decided(None, "5", &cloth), (false, false), "one frame has none before it");
        assert_eq!(decided(None, "1,75", &cloth), (false, false), "nobody asked for those between");
        assert_eq!(decided(None, "1-9,75", &cloth), (true, true));
        assert_eq!(decided(None, "1-9", &[]), (false, false));
        assert_eq!(decided(Some(true), "1-9", &cloth), (true, false));
        assert_eq!(decided(Some(true), "1-9", &[]), (true, false));
        assert_eq!(decided(Some(false), "1-9", &cloth), (false, false));
    }

    #[test]
    fn a_refusal_names_the_simulations_and_what_to_do() {
        let spec = JobSpec::animation("a.blend").strict(true);
        let unbaked = ["the cloth of `Flag`".to_owned(), "the fluid of `Tank`".to_owned()];
        let text = fault(&spec, &"1-2".parse().unwrap(), &unbaked).unwrap();
        assert!(
            text.contains("the cloth of `Flag` and the fluid of `Tank` are not baked"),
            "{text}"
        );
        assert!(text.contains("--in-order on"), "{text}");
    }
}

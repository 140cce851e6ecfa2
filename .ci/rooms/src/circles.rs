//! Circles between the files of a crate: the strongly connected parts of the graph of arrows.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};

use crate::{
    exceptions::Exceptions,
    finding::Finding,
    names::{self, Arrow},
    tree::Crate,
};

/// The knots among these arrows: sets of files of which each reaches each other.
fn knots<'a>(arrows: &[&'a Arrow]) -> Vec<BTreeSet<&'a str>> {
    let mut graph = DiGraphMap::<&str, ()>::new();
    for arrow in arrows {
        graph.add_edge(&arrow.from, &arrow.to, ());
    }
    let parts = tarjan_scc(&graph).into_iter();
    parts.filter(|part| part.len() > 1).map(|part| part.into_iter().collect()).collect()
}

/// Every knot that is left without the files that `exceptions` names, with all its arrows.
pub(crate) fn check(one: &Crate, exceptions: &Exceptions) -> Vec<Finding> {
    let arrows = names::arrows(one);
    let all: Vec<&Arrow> = arrows.iter().collect();
    let knotted: BTreeSet<&str> = knots(&all).into_iter().flatten().collect();
    let excepted: BTreeSet<&str> =
        knotted.into_iter().filter(|file| exceptions.covers("circle", file)).collect();
    let left: Vec<&Arrow> = all
        .into_iter()
        .filter(|arrow| !excepted.contains(&*arrow.from) && !excepted.contains(&*arrow.to))
        .collect();
    knots(&left).into_iter().map(|knot| describe(&knot, &left)).collect()
}

fn describe(knot: &BTreeSet<&str>, arrows: &[&Arrow]) -> Finding {
    // One line a pair of files: where the arrow is first, and how many more there are.
    let mut pairs: BTreeMap<(&str, &str), (&Arrow, usize)> = BTreeMap::new();
    for arrow in arrows {
        if knot.contains(&*arrow.from) && knot.contains(&*arrow.to) {
            let pair = pairs.entry((&arrow.from, &arrow.to)).or_insert((arrow, 0));
            pair.1 += 1;
        }
    }
    let mut text = format!("{} files reach each other", knot.len());
    for (arrow, count) in pairs.into_values() {
        text += &format!("\n    {}:{} -> {} ({}", arrow.from, arrow.line, arrow.to, arrow.name);
        if count > 1 {
            text += &format!(", and {} more", count - 1);
        }
        text += ")";
    }
    let place = knot.first().copied().unwrap_or_default().to_owned();
    Finding { rule: "circle", place, text }
}

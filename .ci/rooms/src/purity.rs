//! What a room must not name.

use crate::{
    finding::Finding,
    names::{self, Use},
    tree::Crate,
};

/// Rooms of a crate: top modules and all below them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rooms {
    /// These.
    Of(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

/// What some rooms must not name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) package: &'static str,
    pub(crate) rooms: Rooms,
    /// Paths of other crates, with all below them; `crate::…` for rooms of the same; `async`.
    pub(crate) forbidden: &'static [&'static str],
    pub(crate) why: &'static str,
}

/// Generated messages, clients and servers of the protocol.
const WIRE: &str = "framecrew_proto::v1";

pub(crate) const RULES: &[Rule] = &[
    Rule {
        package: "framecrew-orchestrator",
        rooms: Rooms::Of(&["domain", "scheduler", "jobs"]),
        forbidden: &[
            "async",
            "tokio",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::OnceLock",
            "std::sync::Condvar",
            "std::sync::atomic",
            "std::sync::mpsc",
            "std::fs",
            WIRE,
        ],
        why: "rules are pure: time is an argument, one task owns the state",
    },
    Rule {
        package: "framecrew-orchestrator",
        rooms: Rooms::Of(&["driver", "mailbox", "observe", "feed", "store", "blobs", "collect"]),
        forbidden: &[WIRE, "tonic"],
        why: "messages of the wire end in service, convert and dispatch",
    },
    Rule {
        package: "framecrew-node",
        rooms: Rooms::Of(&["core"]),
        forbidden: &[
            "async",
            "tokio",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::OnceLock",
            "std::sync::Condvar",
            "std::sync::atomic",
            "std::sync::mpsc",
            "std::fs",
            "parking_lot",
            WIRE,
        ],
        why: "the simulation plays this core: no clock, no lock, no file",
    },
    Rule {
        package: "framecrew-node",
        rooms: Rooms::Of(&["renderer", "output", "movie", "blender", "project"]),
        forbidden: &[WIRE, "tonic"],
        why: "messages of the wire end at the node's edge: service, membership, adoption, request",
    },
    Rule {
        package: "framecrew",
        rooms: Rooms::Of(&["words", "live", "state", "view"]),
        forbidden: &["async", "tokio", "std::fs", "std::time::SystemTime", "tonic"],
        why: "what a person sees follows from the messages alone",
    },
    Rule {
        package: "framecrew-model",
        rooms: Rooms::AllBut(&[]),
        forbidden: &[
            "async",
            "tokio",
            "std::sync",
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
        ],
        why: "what all speak about knows no machine",
    },
    Rule {
        package: "framecrew-blend",
        rooms: Rooms::AllBut(&[]),
        forbidden: &["async", "tokio", "std::time", "std::sync::Mutex", "std::net"],
        why: "a file's content is read from what the caller opens",
    },
];

/// Whether one of the crate's packages is meant; a program's tree has none of these rooms.
fn applies(one: &Crate, rule: &Rule) -> bool {
    one.name == rule.package
        && one.sources.first().is_some_and(|root| root.file.ends_with("lib.rs"))
}

fn is_in(rooms: Rooms, module: &[String]) -> bool {
    let names = |list: &[&str]| module.first().is_some_and(|top| list.contains(&top.as_str()));
    match rooms {
        Rooms::Of(list) => names(list),
        Rooms::AllBut(list) => !names(list),
    }
}

/// Whether `path` is, or lies below, `of`.
fn is_below(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

pub(crate) fn check(one: &Crate, rules: &[Rule]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let rules: Vec<&Rule> = rules.iter().filter(|rule| applies(one, rule)).collect();
    let uses = if rules.is_empty() { Default::default() } else { names::uses(one) };
    for rule in rules {
        let (Rooms::Of(listed) | Rooms::AllBut(listed)) = rule.rooms;
        for room in listed {
            if !one.modules.contains_key(&vec![(*room).to_owned()]) {
                let place = format!("{}:{room}", one.name);
                let text = "a rule names this room, and there is none".to_owned();
                findings.push(Finding { rule: "room", place, text });
            }
        }
        for Use { module, file, line, name, glob } in &uses {
            let forbidden = rule
                .forbidden
                .iter()
                .find(|forbidden| is_below(name, forbidden) || *glob && is_below(forbidden, name));
            let Some(forbidden) = forbidden.filter(|_| is_in(rule.rooms, module)) else { continue };
            let place = format!("{file}:{forbidden}");
            // The first line says enough.
            if !findings.iter().any(|known| known.rule == "impure" && known.place == place) {
                let text = format!("line {line} names {name}; {}", rule.why);
                findings.push(Finding { rule: "impure", place, text });
            }
        }
    }
    findings
}

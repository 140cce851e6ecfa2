//! The check, on houses of a few lines.
#![allow(clippy::unwrap_used)]

use crate::{check, purity::RULES, tree::Crate};

/// A crate of the package `name` from these files, the first of which is its root.
fn crate_of(name: &str, files: &[(&str, &str)]) -> Crate {
    let load = |file: &str| {
        let found = files.iter().find(|(name, _)| *name == file);
        found.map(|(_, text)| (*text).to_owned())
    };
    let externs = vec!["tokio".to_owned(), "framecrew_proto".to_owned()];
    Crate::read(name, files[0].0, externs, &load).unwrap()
}

/// What the check prints for a crate, a finding a line.
fn findings(files: &[(&str, &str)], exceptions: &str) -> String {
    let findings = check(&[crate_of("house", files)], exceptions).unwrap();
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn a_house_without_faults_is_accepted() {
    let files = [
        ("src/lib.rs", "mod above; mod below; pub use above::Above;"),
        ("src/above.rs", "use crate::below::Below; pub struct Above(Below);"),
        ("src/below.rs", "pub struct Below;"),
    ];
    assert_eq!(findings(&files, ""), "");
}

#[test]
fn a_circle_is_refused_with_each_of_its_arrows() {
    let files = [
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a.rs", "use crate::b::B;\npub struct A(B);\npub fn a() { crate::b::b() }"),
        ("src/b.rs", "pub struct B;\npub fn b() { super::c::c() }"),
        ("src/c.rs", "pub fn c() { println!(\"{}\", crate::a::a()) }"),
    ];
    let expected = "circle src/a.rs: 3 files reach each other\n    \
                    src/a.rs:1 -> src/b.rs (crate::b::B, and 2 more)\n    \
                    src/b.rs:2 -> src/c.rs (super::c::c)\n    \
                    src/c.rs:1 -> src/a.rs (crate::a::a)\n";
    assert_eq!(findings(&files, ""), expected);
    assert_eq!(findings(&files, "circle src/c.rs to be opened"), "");
}

#[test]
fn a_child_and_a_parent_that_name_each_other_are_a_circle() {
    let files = [
        ("src/lib.rs", "mod room;"),
        ("src/room/mod.rs", "mod corner;\npub struct Room(corner::Corner);"),
        ("src/room/corner.rs", "use super::Room;\npub struct Corner(Vec<Room>);"),
    ];
    let expected = "circle src/room/corner.rs: 2 files reach each other\n    \
                    src/room/corner.rs:1 -> src/room/mod.rs (super::Room, and 1 more)\n    \
                    src/room/mod.rs:2 -> src/room/corner.rs (corner::Corner)\n";
    assert_eq!(findings(&files, ""), expected);
}

#[test]
fn a_reexport_leads_to_the_definition_and_is_no_arrow() {
    let files = [
        ("src/lib.rs", "mod room; mod user;"),
        (
            "src/room.rs",
            "mod corner;\npub(crate) use self::corner::*;\npub fn room() { crate::user::go() }",
        ),
        ("src/room/corner.rs", "pub struct Corner;"),
        ("src/user.rs", "use crate::room;\npub fn go() -> room::Corner { room::Corner }"),
    ];
    assert_eq!(findings(&files, ""), "");
}

#[test]
fn tests_may_name_everything() {
    let files = [
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a.rs", "pub fn a() {}\n#[cfg(test)]\nmod tests { use crate::b::b; }"),
        ("src/b.rs", "pub fn b() { crate::a::a() }"),
    ];
    assert_eq!(findings(&files, ""), "");
}

#[test]
fn a_long_file_is_refused_and_its_tests_do_not_count() {
    let long = "const A: u8 = 0;\n".repeat(601);
    let files = [("src/lib.rs", long.as_str())];
    assert_eq!(findings(&files, ""), "file src/lib.rs: 601 lines, of 600 at most\n");
    let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(findings(&[("src/lib.rs", tests.as_str())], ""), "");
}

#[test]
fn a_long_function_is_refused_and_one_of_seventy_lines_is_not() {
    let function = |lines: usize| {
        format!(
            "struct A;\nimpl A {{\n    fn long() {{\n{}    }}\n}}\n",
            "let _ = 1;\n".repeat(lines - 2)
        )
    };
    let text = function(71);
    let expected = "function src/lib.rs:long: 71 lines at line 3, of 70 at most\n";
    assert_eq!(findings(&[("src/lib.rs", text.as_str())], ""), expected);
    assert_eq!(findings(&[("src/lib.rs", function(70).as_str())], ""), "");
}

#[test]
fn an_impure_name_is_refused_by_whatever_way_it_comes() {
    let ways = [
        "use std::time::Instant;",
        "use std::time::*;",
        "use std::time;\nfn now() { time::Instant::now(); }",
        "fn now() { assert!(std::time::Instant::now() > then) }",
        "use crate::clock::Instant;",
    ];
    for way in ways {
        let files = [
            ("src/lib.rs", "mod clock; mod domain; mod jobs; mod scheduler;"),
            ("src/clock.rs", "pub use std::time::Instant;"),
            ("src/domain.rs", ""),
            ("src/jobs.rs", ""),
            ("src/scheduler.rs", way),
        ];
        let house = crate_of("framecrew-orchestrator", &files);
        let findings = crate::purity::check(&house, &RULES[..1]);
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(
            matches!(&texts[..], [text] if text.starts_with("impure src/scheduler.rs:std::time::Instant: line ")
                && text.ends_with("rules are pure: time is an argument, one task owns the state")),
            "{way}: {texts:?}"
        );
    }
}

#[test]
fn an_async_function_and_a_wire_message_are_impure_and_a_missing_room_is_said() {
    let files = [
        ("src/lib.rs", "mod domain; mod jobs;"),
        ("src/domain.rs", "async fn wait() {}"),
        ("src/jobs.rs", "use framecrew_proto::v1 as proto;\npub fn next(job: proto::Job) {}"),
    ];
    let house = crate_of("framecrew-orchestrator", &files);
    let findings = crate::purity::check(&house, &RULES[..1]);
    let places: Vec<String> =
        findings.iter().map(|finding| format!("{} {}", finding.rule, finding.place)).collect();
    let expected = [
        "room framecrew-orchestrator:scheduler",
        "impure src/domain.rs:async",
        "impure src/jobs.rs:framecrew_proto::v1",
    ];
    assert_eq!(places, expected);
}

#[test]
fn an_exception_that_nothing_needs_is_refused() {
    let list = "# what may stay\n\nfile src/lib.rs it is a table\n";
    let expected = "exception .ci/rooms/exceptions.txt:3: \
                    file src/lib.rs breaks no rule any more; delete the line\n";
    assert_eq!(findings(&[("src/lib.rs", "")], list), expected);
}

#[test]
fn an_exception_without_a_reason_or_a_rule_is_refused() {
    let error = |list| check(&[], list).unwrap_err().to_string();
    assert_eq!(error("file src/lib.rs"), ".ci/rooms/exceptions.txt:1: write RULE PLACE REASON");
    assert!(error("fil src/lib.rs why").contains("fil is no rule"));
}

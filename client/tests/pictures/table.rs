//! Runs the table of one Blender: every row with every check.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
};

use framecrew_blobs::Digest;
use framecrew_node::blender::FoundBlender;
use futures::{StreamExt as _, stream};

use crate::{
    blender, compare,
    crew::{Away, Crew, Fate},
    opened,
    row::{self, Check, Row, Verdict},
    support,
};

/// Number of parallel calls of `framecrew render`: while one reads its project, the node draws for the other.
const AT_A_TIME: usize = 2;

/// The product's results for a row.
struct Ours<'a> {
    row: &'a Row,
    fate: Fate,
    sent: HashSet<String>,
    /// Files that were taken away, each with the client's result without it.
    without: Vec<(String, String, Fate)>,
    /// The project's files.
    before: BTreeSet<PathBuf>,
}

/// Checks all rows with the Blender whose version starts with `version`; skipped if there is none.
pub(crate) async fn check(version: &str) {
    let found = support::blenders();
    let is_it =
        |found: &&FoundBlender| found.version.to_string().starts_with(&format!("{version}."));
    let Some(blender) = found.iter().find(is_it) else {
        // The newest one has a variable of its own, because most machines do not have it.
        let required = match version {
            "5.0" => "FRAMECREW_REQUIRE_BLENDER_5_0",
            _ => "FRAMECREW_REQUIRE_BLENDER",
        };
        support::skip(&format!("Blender {version}"), required);
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let root = match std::env::var_os("FRAMECREW_PICTURES_IN") {
        Some(folder) => PathBuf::from(folder).join(version),
        None => scratch.path().to_owned(),
    };
    std::fs::create_dir_all(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let names = std::env::var("FRAMECREW_PICTURES").unwrap_or_default();
    let rows = blender::make(blender, &root, &names);

    let crew = Crew::start(version).await;
    let made = rows.iter().filter(|row| row.broken.is_none());
    let ours: Vec<Ours<'_>> = stream::iter(made.map(|row| ours(&crew, &root, row)))
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let by_product = opened::read(&[crew.opened()]);
    let refused = opened::refused(&by_product, &crew.node_data());

    let plain: Vec<&Row> =
        rows.iter().filter(|row| row.broken.is_none() && row.refused.is_none()).collect();
    blender::draw(blender, &root, &plain);
    let logs: Vec<PathBuf> = plain.iter().map(|row| opened::plain_log(&root, &row.name)).collect();
    let by_plain = opened::by_row(&opened::read(&logs), &root);

    let mut verdicts = BTreeMap::new();
    for row in &rows {
        let mut verdict = Verdict::default();
        verdict.add(Check::Made, row.broken.clone());
        verdicts.insert(row.name.as_str(), verdict);
    }
    for ours in &ours {
        let verdict = verdicts.get_mut(ours.row.name.as_str()).unwrap();
        judge(ours, &root.join(&ours.row.name), &by_plain, verdict);
    }
    report(version, &rows, &verdicts, &refused);
    if opened::is_known() && plain.len() > 1 {
        assert!(by_plain.len() * 2 > plain.len(), "strace has seen nothing of plain Blender");
        let data = crew.node_data();
        let sees = by_product
            .iter()
            .any(|open| open.path.starts_with(&data) && open.path.ends_with("shot.blend"));
        assert!(sees, "strace has seen nothing of the node's Blender");
    }
}

/// Renders a row with the product, once as it is, and once without each of the files that it needs.
async fn ours<'a>(crew: &Crew, root: &Path, row: &'a Row) -> Ours<'a> {
    let folder = root.join(&row.name);
    let before = compare::files(&folder);
    let fate = crew.render(row, &folder, &row.name).await;
    let sent = crew.sent(&row.name).await;
    let mut without = Vec::new();
    for (number, (file, words)) in row.without().into_iter().enumerate() {
        let away = Away::take(&folder, &file);
        let fate = crew.render(row, &folder, &format!("{} without {number}", row.name)).await;
        drop(away);
        without.push((file.display().to_string(), words, fate));
    }
    Ours { row, fate, sent, without, before }
}

fn judge(
    ours: &Ours<'_>,
    folder: &Path,
    by_plain: &BTreeMap<String, BTreeSet<PathBuf>>,
    verdict: &mut Verdict,
) {
    let Ours { row, fate, .. } = ours;
    if let Some(words) = &row.refused {
        let wrong = match (fate.succeeded, fate.said.contains(words.as_str())) {
            (false, true) => None,
            (true, _) => Some("it was rendered".to_owned()),
            (false, false) => Some(format!("the reason does not say {words:?}: {}", fate.said)),
        };
        verdict.add(Check::Refused, wrong);
    } else {
        let failed = (!fate.succeeded).then(|| format!("it failed: {}", fate.said));
        let silent = row.says.iter().filter(|words| !fate.said.contains(words.as_str()));
        let silent = silent.map(|words| format!("nothing says {words:?}: {}", fate.said));
        verdict.add(Check::Quiet, failed);
        verdict.add(Check::Quiet, fate.alarms(&row.says).into_iter().chain(silent));
        let plain = compare::plain(folder, &ours.before);
        verdict.add(Check::Equal, compare::differences(&plain, &fate.frames, row.noise));
        if opened::is_known() {
            let opened = by_plain.get(&row.name).into_iter().flatten();
            verdict.add(Check::Sent, opened.filter_map(|path| not_sent(ours, folder, path)));
        }
    }
    for (file, words, fate) in &ours.without {
        let wrong = match (fate.succeeded, fate.said.contains(words.as_str())) {
            (false, true) => None,
            (true, _) => Some(format!("without {file} it was rendered")),
            (false, false) => Some(format!("without {file} nobody says {words:?}: {}", fate.said)),
        };
        verdict.add(Check::Without, wrong);
    }
}

/// Reports a file that plain Blender opened and that was not sent. A .blend or a colour configuration may have been
/// sent with changed paths.
fn not_sent(ours: &Ours<'_>, folder: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(folder).unwrap();
    let is_output = !ours.before.contains(name);
    let digest = Digest::of(&std::fs::read(path).unwrap()).to_string();
    let is_changed = name == Path::new("shot.blend") || name.ends_with("config.ocio");
    let is_sent = ours.sent.contains(&digest) || is_changed;
    (!is_output && !is_sent)
        .then(|| format!("plain Blender opens {}, which was not sent", name.display()))
}

/// Prints the table, and fails if there are unexpected results.
fn report(version: &str, rows: &[Row], verdicts: &BTreeMap<&str, Verdict>, refused: &[String]) {
    let mut table = format!("\nBlender {version}: {} rows\n", rows.len());
    let mut faults = Vec::new();
    let (mut checks, mut taken) = (0, 0);
    for row in rows {
        let verdict = &verdicts[row.name.as_str()];
        writeln!(table, "  {:<48} {}", row.name, verdict.summary(row, version)).unwrap();
        faults.extend(verdict.faults(row, version));
        checks += verdict.len();
        taken += row.without.len();
    }
    writeln!(table, "{checks} checks; {taken} files were taken away, one at a time").unwrap();
    let walls = refused.iter().map(|open| format!("the walls refuse to open {open}"));
    faults.extend(walls.filter(|wall| !row::is_known_wall(wall)));
    // Not `eprintln!`, which the test harness captures.
    let _ = std::io::stderr().write_all(table.as_bytes());
    assert!(
        faults.is_empty(),
        "Blender {version}, {} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

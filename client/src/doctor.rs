//! Pure: what a machine has for rendering, what is missing, the impact of that, and how to fix it.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use framecrew::words;
use serde::Serialize;

/// Below this a data folder is soon full: the provisioned Blender takes 1 GB, a long job's frames as much.
const DISK_FREE_MIN_BYTES: u64 = 3_000_000_000;
/// How much a machine's two clocks may part within a second before the wall clock counts as being moved.
const CLOCK_DRIFT_MAX: Duration = Duration::from_millis(50);
/// How much the cluster's clock may differ before times look wrong to people. Nodes are heard of every few
/// seconds, so that less cannot be told apart.
const CLOCK_SKEW_MAX_MS: i64 = 15_000;
/// 2025 began this many seconds after 1970: a clock that shows less was never set.
const YEAR_2025_SECONDS: u64 = 1_735_689_600;

/// What was found out about a machine. `None`: it could not be found out.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Blenders, newest first.
    pub(crate) blenders: Option<Vec<Blender>>,
    /// Programs that may be Blenders but do not report their version, each with what is wrong with it.
    pub(crate) unsure: Vec<String>,
    /// Where there is no Blender: libraries that the one which is provisioned will lack.
    pub(crate) likely_missing: Option<Vec<Library>>,
    /// A Python that is installed with Blender's module but cannot load it because libraries are missing.
    pub(crate) broken_module: Option<Blender>,
    /// The CPython 3.11 that Blender's module could be installed for.
    pub(crate) python: Option<PathBuf>,
    /// What walls Blender in here, or why nothing does.
    pub(crate) walls: Option<Result<String, String>>,
    /// First line of what `ffmpeg -version` says.
    pub(crate) ffmpeg: Option<String>,
    /// The data folder, and bytes free where it is or would be.
    pub(crate) disk: Option<(PathBuf, u64)>,
    /// Ports that Framecrew uses by default, each with who uses it, and whether something listens there.
    pub(crate) ports: Vec<Port>,
    /// Version of the Docker engine that answers.
    pub(crate) docker: Option<String>,
    /// Version of `docker compose`.
    pub(crate) compose: Option<String>,
    /// The wall clock, and how far it and the monotonic one parted within the examination.
    pub(crate) clock: Option<(SystemTime, Duration)>,
    /// The cluster that was asked.
    pub(crate) cluster: Cluster,
}

/// A Blender that is here.
#[derive(Debug)]
pub(crate) struct Blender {
    pub(crate) version: String,
    pub(crate) path: PathBuf,
    /// Why it does not start the way a node starts it: within the walls, with the environment of a job.
    pub(crate) does_not_start: Option<String>,
    pub(crate) missing: Vec<Library>,
}

/// A system library that is not here.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) name: String,
    /// Debian's package for it.
    pub(crate) package: Option<&'static str>,
    pub(crate) only_for_eevee: bool,
}

/// A port of this machine.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) user: &'static str,
    pub(crate) is_free: bool,
    /// Whether what listens there is the cluster that was asked.
    pub(crate) is_ours: bool,
}

/// What the orchestrator said, or why it said nothing.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) url: String,
    /// Its live nodes; the error is for people.
    pub(crate) nodes: Option<Result<usize, String>>,
    /// How far its clock is ahead of ours in milliseconds, as far as its nodes' heartbeats tell.
    pub(crate) clock_ahead_ms: Option<i64>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// What.
    pub(crate) name: &'static str,
    /// Whether it is as it should be.
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// What was found, for people.
    pub(crate) detail: String,
}

/// Whether a thing is as it should be.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It is.
    Ok,
    /// It is not.
    Missing {
        /// What does not work without it.
        impact: String,
        /// How to get it.
        fix: String,
        /// Whether no frame can be rendered here until it is fixed.
        blocks: bool,
    },
    /// It could not be determined.
    Unknown,
}

fn ok(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Ok, detail: detail.into() }
}

fn unknown(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Unknown, detail: detail.into() }
}

fn missing(
    name: &'static str,
    detail: impl Into<String>,
    impact: impl Into<String>,
    fix: impl Into<String>,
) -> Check {
    let verdict = Verdict::Missing { impact: impact.into(), fix: fix.into(), blocks: false };
    Check { name, verdict, detail: detail.into() }
}

impl Check {
    /// The same, but nothing can be rendered here until it is fixed.
    fn blocking(mut self) -> Self {
        if let Verdict::Missing { blocks, .. } = &mut self.verdict {
            *blocks = true;
        }
        self
    }

    /// Whether nothing can be rendered here until it is fixed.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self.verdict, Verdict::Missing { blocks: true, .. })
    }
}

/// Judges what was found, most important first.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        blender(facts),
        libraries(facts),
        python(facts),
        walls(facts),
        ffmpeg(facts),
        disk(facts),
    ];
    checks.extend(facts.ports.iter().map(port));
    checks.extend([docker(facts), clock(facts), orchestrator(&facts.cluster)]);
    checks
}

fn blender(facts: &Facts) -> Check {
    const NAME: &str = "Blender";
    let Some(blenders) = &facts.blenders else {
        return unknown(NAME, "this build renders on other machines only");
    };
    let failing = blenders.iter().filter_map(|blender| {
        let why = blender.does_not_start.as_ref()?;
        let (version, path) = (&blender.version, blender.path.display());
        Some((format!("{version} at {path} does not start: {why}"), suggest_fix(why)))
    });
    let unsure = facts.unsure.iter().map(|why| (why.clone(), suggest_fix(why)));
    let (wrong, fixes): (Vec<_>, BTreeSet<_>) = failing.chain(unsure).unzip();
    let working = blenders.iter().filter(|blender| blender.does_not_start.is_none());
    let working: Vec<_> = working
        .map(|blender| format!("{} at {}", blender.version, blender.path.display()))
        .collect();
    if !wrong.is_empty() {
        let fixes = fixes.into_iter().collect::<Vec<_>>().join("; ");
        if working.is_empty() {
            let impact = "this machine cannot render";
            return missing(NAME, wrong.join("; "), impact, fixes).blocking();
        }
        let detail = format!("{}; working: {}", wrong.join("; "), working.join(", "));
        let impact = "a node here only draws with the working ones";
        return missing(NAME, detail, impact, fixes);
    }
    if !working.is_empty() {
        return ok(NAME, working.join(", "));
    }
    if let Some(broken) = &facts.broken_module {
        return missing(
            NAME,
            format!("the module at {} does not load", broken.path.display()),
            "this machine cannot render",
            "install the system libraries named below",
        )
        .blocking();
    }
    let impact = "this machine cannot render";
    match facts.python {
        Some(_) => missing(
            NAME,
            "none found",
            impact,
            "`framecrew demo` installs Blender 4.5 into the cache (about 400 MB to download), or install Blender 3.4 or newer",
        ),
        None => missing(
            NAME,
            "none found",
            impact,
            "install Blender 3.4 or newer, or Python 3.11 as below",
        )
        .blocking(),
    }
}

/// Suggests a fix for a Blender that does not start, based on its own error message.
fn suggest_fix(why: &str) -> &'static str {
    let says = |words: &str| why.contains(words);
    if says("has not reported its version") || says("was not ready within") {
        "try again when the machine is less busy; start the program by hand to see whether it ever answers"
    } else if says("OpenColorIO") || says("OCIO") {
        "set OCIO to an existing, intact colour configuration, or unset it"
    } else if says("encodings") || says("Fatal Python error") || says("PYTHONHOME") {
        "remove other Pythons from PATH, PYTHONHOME and PYTHONPATH (is a virtual environment active?)"
    } else if says(".so") || says("shared librar") {
        "install the system libraries that it names"
    } else {
        "start the program by hand to see its whole output; `framecrew-node --confine off` starts it without walls"
    }
}

fn libraries(facts: &Facts) -> Check {
    const NAME: &str = "system libraries";
    let here = facts.blenders.iter().flatten().chain(&facts.broken_module);
    let blenders: Vec<_> = here.collect();
    let (absent, impact): (Vec<_>, _) = match &facts.likely_missing {
        _ if !blenders.is_empty() => (
            blenders.iter().flat_map(|blender| &blender.missing).collect(),
            "a Blender that needs them does not start",
        ),
        Some(absent) => (
            absent.iter().collect(),
            "Blender 4.5 does not start once it is here; as root, `framecrew demo` installs them with it",
        ),
        None => return unknown(NAME, "not looked at"),
    };
    if absent.is_empty() {
        return ok(NAME, "all that Blender links or loads");
    }
    let names: BTreeSet<_> = absent.iter().map(|library| library.name.as_str()).collect();
    let packages: BTreeSet<_> = absent.iter().filter_map(|library| library.package).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let fix = match packages.len() {
        0 => "install them with the system's package manager".to_owned(),
        _ => format!(
            "on Debian or Ubuntu: sudo apt-get update && sudo apt-get install --yes --no-install-recommends {}",
            packages.into_iter().collect::<Vec<_>>().join(" ")
        ),
    };
    if absent.iter().all(|library| library.only_for_eevee) {
        return missing(
            NAME,
            format!("missing: {names}"),
            "EEVEE and Workbench do not draw; Cycles does",
            fix,
        );
    }
    let check = missing(NAME, format!("missing: {names}"), impact, fix);
    let blocks = facts.broken_module.is_some() && facts.blenders.iter().flatten().next().is_none();
    if blocks { check.blocking() } else { check }
}

fn python(facts: &Facts) -> Check {
    const NAME: &str = "Python 3.11";
    match &facts.python {
        Some(path) => ok(NAME, path.display().to_string()),
        None => missing(
            NAME,
            "none found that has venv, and pip or ensurepip",
            "Blender 4.5 cannot be installed as a Python module; a Blender that is installed renders without it",
            "install CPython 3.11 with venv and pip (Debian 12: sudo apt-get install --yes python3 python3-venv)",
        ),
    }
}

fn walls(facts: &Facts) -> Check {
    const NAME: &str = "confinement";
    match &facts.walls {
        None => unknown(NAME, "this build renders on other machines only"),
        Some(Ok(walls)) => {
            ok(NAME, format!("what renders is confined to its own folder ({walls})"))
        }
        Some(Err(why)) => missing(
            NAME,
            why.as_str(),
            "a .blend can make Blender write wherever this user can, so render only what you trust",
            "use Linux 5.13 or newer with Landlock, or run the nodes in containers",
        ),
    }
}

fn ffmpeg(facts: &Facts) -> Check {
    const NAME: &str = "ffmpeg";
    match &facts.ffmpeg {
        Some(said) => ok(NAME, said.split(" Copyright").next().unwrap_or_default()),
        None => missing(
            NAME,
            "not found",
            "a node here makes no movies (`render --movie`); rendering does not need it",
            "install ffmpeg (Debian or Ubuntu: sudo apt-get install --yes ffmpeg)",
        ),
    }
}

fn disk(facts: &Facts) -> Check {
    const NAME: &str = "disk";
    let Some((folder, free_bytes)) = &facts.disk else {
        return unknown(NAME, "this system does not tell what is free");
    };
    let detail = format!("{} free for {}", words::bytes(*free_bytes), folder.display());
    if *free_bytes >= DISK_FREE_MIN_BYTES {
        return ok(NAME, detail);
    }
    let impact = "jobs are refused once it is full, and Blender 4.5 alone takes 1 GB";
    missing(NAME, detail, impact, "free some, or name another folder with --data DIR")
}

fn port(port: &Port) -> Check {
    let (name, flag) = match port.user {
        "orchestrator" => ("port of the orchestrator", "framecrew-orchestrator --listen ADDRESS"),
        _ => ("port of the node", "framecrew-node --listen ADDRESS"),
    };
    let number = port.number;
    match port {
        Port { is_free: true, .. } => ok(name, format!("{number} is free")),
        Port { is_ours: true, .. } => ok(name, format!("{number} is used by the cluster itself")),
        _ => missing(
            name,
            format!("something else listens on {number}"),
            format!("the {} cannot use its usual port", port.user),
            format!(
                "find it (ss -ltnp 'sport = :{number}') and stop it, or choose another: {flag}"
            ),
        ),
    }
}

fn docker(facts: &Facts) -> Check {
    const NAME: &str = "Docker";
    const IMPACT: &str = "the Compose stack in deploy/ cannot be used; nothing else needs it";
    match (&facts.docker, &facts.compose) {
        (Some(engine), Some(compose)) => ok(NAME, format!("engine {engine}, compose {compose}")),
        (Some(engine), None) => missing(
            NAME,
            format!("engine {engine}, but `docker compose` is missing"),
            IMPACT,
            "install Docker's Compose plugin, version 2 or newer",
        ),
        (None, _) => missing(
            NAME,
            "no engine answers",
            IMPACT,
            "install Docker and start it, and let this user talk to it (group docker)",
        ),
    }
}

fn clock(facts: &Facts) -> Check {
    const NAME: &str = "clock";
    let Some((wall, drift)) = facts.clock else {
        return unknown(NAME, "not looked at");
    };
    let impact = "times that people are shown are wrong; leases and timeouts go by another clock";
    let fix = "let the system set its clock (sudo timedatectl set-ntp true)";
    let since_1970 = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since_1970.as_secs() < YEAR_2025_SECONDS {
        return missing(NAME, "it was never set", impact, fix);
    }
    if drift > CLOCK_DRIFT_MAX {
        let detail = format!("it was moved by {} ms while we looked", drift.as_millis());
        return missing(NAME, detail, impact, fix);
    }
    match facts.cluster.clock_ahead_ms {
        None => ok(NAME, "set, and steady"),
        Some(ahead) if ahead.abs() <= CLOCK_SKEW_MAX_MS => {
            ok(NAME, "set, steady, and like the cluster's")
        }
        Some(ahead) => {
            let way = if ahead > 0 { "behind" } else { "ahead of" };
            let off = words::duration(Duration::from_millis(ahead.unsigned_abs()));
            missing(NAME, format!("{off} {way} the cluster's"), impact, fix)
        }
    }
}

fn orchestrator(cluster: &Cluster) -> Check {
    const NAME: &str = "orchestrator";
    let url = &cluster.url;
    match &cluster.nodes {
        None => unknown(NAME, "not asked"),
        Some(Ok(0)) => missing(
            NAME,
            format!("{url} answers, but has no node"),
            "jobs wait",
            format!("start one: framecrew-node --orchestrator {url}"),
        ),
        Some(Ok(nodes)) => {
            ok(NAME, format!("{url} answers, with {}", words::plural(*nodes as u64, "node")))
        }
        Some(Err(error)) => missing(
            NAME,
            error.as_str(),
            "nothing can be submitted or watched there; `framecrew demo` and `render --local` bring their own",
            "start one with `framecrew up`, or name another with --cluster URL",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    fn blender(missing: Vec<Library>) -> Blender {
        let (version, path) = ("4.5.15".into(), "/opt/python".into());
        Blender { version, path, does_not_start: None, missing }
    }

    #[test]
    fn a_blender_that_does_not_start_blocks_unless_another_starts() {
        let why = "ModuleNotFoundError: No module named 'encodings'";
        let broken = || Blender { does_not_start: Some(why.into()), ..blender(Vec::new()) };
        let alone = Facts { blenders: Some(vec![broken()]), ..Facts::default() };
        let check = super::blender(&alone);
        assert!(check.blocks(), "{check:?}");
        assert_eq!(check.detail, format!("4.5.15 at /opt/python does not start: {why}"));
        assert!(matches!(&check.verdict, Verdict::Missing { fix, .. } if fix.contains("PATH")));
        let both =
            Facts { blenders: Some(vec![broken(), blender(Vec::new())]), ..Facts::default() };
        let check = super::blender(&both);
        assert!(matches!(check.verdict, Verdict::Missing { blocks: false, .. }), "{check:?}");
        let silent = Facts {
            blenders: Some(Vec::new()),
            unsure: vec!["/usr/bin/blender has not reported its version within 30 s".into()],
            ..Facts::default()
        };
        let check = super::blender(&silent);
        assert!(check.blocks() && check.detail.contains("/usr/bin/blender"), "{check:?}");
    }

    #[test]
    fn a_bare_machine_with_python_can_get_a_blender_so_nothing_blocks() {
        let facts = Facts {
            blenders: Some(Vec::new()),
            python: Some("python3".into()),
            ..Facts::default()
        };
        let checks = checks(&facts);
        assert!(matches!(
            check(&checks, "Blender").verdict,
            Verdict::Missing { blocks: false, .. }
        ));
        assert!(!checks.iter().any(Check::blocks));
    }

    #[test]
    fn a_machine_with_neither_blender_nor_python_cannot_render() {
        let facts = Facts { blenders: Some(Vec::new()), ..Facts::default() };
        assert!(checks(&facts).iter().any(Check::blocks));
    }

    #[test]
    fn missing_libraries_are_named_with_the_one_line_that_installs_them() {
        let library = |name: &str, package| Library {
            name: name.into(),
            package: Some(package),
            only_for_eevee: false,
        };
        let missing = vec![library("libXi.so.6", "libxi6"), library("libSM.so.6", "libsm6")];
        let facts = Facts {
            blenders: Some(Vec::new()),
            broken_module: Some(blender(missing)),
            python: Some("python3".into()),
            ..Facts::default()
        };
        let checks = checks(&facts);
        let libraries = check(&checks, "system libraries");
        assert!(libraries.detail.contains("libSM.so.6, libXi.so.6"), "{libraries:?}");
        assert!(
            matches!(&libraries.verdict, Verdict::Missing { fix, blocks: true, .. } if fix.ends_with("libsm6 libxi6")),
            "{libraries:?}"
        );
    }

    #[test]
    fn what_a_blender_that_is_not_here_yet_will_lack_is_named_and_blocks_nothing() {
        let missing = |libraries| Facts {
            blenders: Some(Vec::new()),
            python: Some("python3".into()),
            likely_missing: Some(libraries),
            ..Facts::default()
        };
        let library =
            Library { name: "libXi.so.6".into(), package: Some("libxi6"), only_for_eevee: false };
        let checks = checks(&missing(vec![library]));
        let libraries = check(&checks, "system libraries");
        assert!(libraries.detail.contains("libXi.so.6") && !libraries.blocks(), "{libraries:?}");
        assert_eq!(super::libraries(&missing(Vec::new())).verdict, Verdict::Ok);
    }

    #[test]
    fn libraries_that_only_eevee_needs_do_not_block() {
        let missing = vec![Library {
            name: "libEGL.so.1".into(),
            package: Some("libegl1"),
            only_for_eevee: true,
        }];
        let facts = Facts { blenders: Some(vec![blender(missing)]), ..Facts::default() };
        let checks = checks(&facts);
        assert!(
            matches!(&check(&checks, "system libraries").verdict, Verdict::Missing { impact, blocks: false, .. } if impact.contains("EEVEE"))
        );
    }

    #[test]
    fn a_machine_that_cannot_confine_is_told_the_impact() {
        let facts = |walls| Facts { walls, ..Facts::default() };
        let walls = super::walls(&facts(Some(Err("only Linux has Landlock".into()))));
        assert!(
            matches!(&walls.verdict, Verdict::Missing { impact, blocks: false, .. } if impact.contains("trust"))
        );
        assert_eq!(super::walls(&facts(Some(Ok("Landlock".into())))).verdict, Verdict::Ok);
        assert_eq!(super::walls(&facts(None)).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_port_that_the_cluster_itself_uses_is_in_good_hands() {
        let port = |is_ours| Port { number: 4000, user: "orchestrator", is_free: false, is_ours };
        assert_eq!(super::port(&port(true)).verdict, Verdict::Ok);
        assert!(matches!(super::port(&port(false)).verdict, Verdict::Missing { .. }));
    }

    #[test]
    fn a_clock_that_differs_from_the_clusters_is_told_which_way() {
        let mut facts = Facts {
            clock: Some((
                SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000),
                Duration::ZERO,
            )),
            ..Facts::default()
        };
        assert_eq!(clock(&facts).verdict, Verdict::Ok);
        facts.cluster.clock_ahead_ms = Some(90_000);
        assert!(clock(&facts).detail.contains("behind"), "{:?}", clock(&facts));
        facts.cluster.clock_ahead_ms = Some(-90_000);
        assert!(clock(&facts).detail.contains("ahead"), "{:?}", clock(&facts));
    }

    #[test]
    fn a_check_is_one_flat_object_of_json() {
        let json =
            serde_json::to_string(&missing("ffmpeg", "not found", "no movies", "install it"))
                .unwrap();
        assert_eq!(
            json,
            r#"{"name":"ffmpeg","verdict":"missing","impact":"no movies","fix":"install it","blocks":false,"detail":"not found"}"#
        );
    }
}

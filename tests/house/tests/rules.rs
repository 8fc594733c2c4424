//! ARCHITECTURE.md says how the crates lean on each other; these tests keep it true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that can be simulated: `clippy.toml` says what they may not call.
const SANS_IO: [&str; 12] = [
    "meridian-dtls-guard",
    "meridian-transport",
    "meridian-sfu",
    "meridian-room",
    "meridian-signalling",
    "meridian-cascade",
    "meridian-shard-api",
    "meridian-recorder",
    "meridian-turn-core",
    "meridian-geo",
    "meridian-conference",
    "meridian-outbox",
];

/// What the edge may use of the control plane: see `control-plane/api`.
const SHARED: [&str; 7] = [
    "meridian-access",
    "meridian-config",
    "meridian-outbox",
    "meridian-pki",
    "meridian-registry",
    "meridian-serving",
    "meridian-wire",
];

/// What needs a runtime or is a socket. (`libc` is not here: what only asks the kernel for random bytes brings it, too.)
const IO: [&str; 9] = [
    "tokio",
    "async-std",
    "smol",
    "quinn",
    "mio",
    "socket2",
    "hyper",
    "axum",
    "tonic",
];

#[test]
fn the_edge_sees_of_the_control_plane_only_what_both_share() {
    let house = House::read();
    for name in house.crates_under("edge-node") {
        for dependency in house.all_dependencies(&name) {
            assert!(
                !house.is_under(&dependency, "control-plane") || SHARED.contains(&dependency.as_str()),
                "{name} depends on {dependency}: an edge may use {SHARED:?} only"
            );
        }
    }
}

#[test]
fn leaves_depend_on_no_other_room_of_the_house() {
    let house = House::read();
    for (leaf, allowed) in [
        ("meridian-access", &[] as &[&str]),
        ("meridian-config", &[]),
        ("meridian-outbox", &[]),
        ("meridian-wire", &["meridian-access"]),
        ("meridian-pki", &["meridian-access", "meridian-wire"]),
        (
            "meridian-serving",
            &["meridian-access", "meridian-config", "meridian-pki", "meridian-wire"],
        ),
        ("meridian-registry", &[]),
        ("meridian-turn-credentials", &[]),
        ("meridian-turn-core", &["meridian-turn-credentials"]),
        ("meridian-udp", &[]),
        ("meridian-dtls-guard", &[]),
        ("meridian-room", &[]),
        ("meridian-sfu", &[]),
        ("meridian-process", &[]),
    ] {
        let mut inside = house.all_dependencies(leaf);
        inside.retain(|name| house.folders.contains_key(name) && !allowed.contains(&name.as_str()));
        assert!(inside.is_empty(), "{leaf} is a leaf but depends on {inside:?}");
    }
}

#[test]
fn sans_io_crates_bring_no_runtime_and_no_socket_however_far_down() {
    let house = House::read();
    for name in SANS_IO {
        let all = house.all_dependencies(name);
        let io: Vec<_> = IO.iter().filter(|io| all.contains(**io)).collect();
        assert!(
            io.is_empty(),
            "{name} is sans-IO but brings {io:?}: `cargo tree -p {name} -e normal -i {}` says through whom",
            io[0]
        );
    }
    // The test would see it if there were something to see.
    assert!(house.all_dependencies("meridian-serving").contains("tokio"));
}

/// `cargo clippy` enforces it; here stands that nobody has left the list.
#[test]
fn sans_io_crates_deny_clocks_randomness_and_sockets() {
    let house = House::read();
    for name in SANS_IO {
        let root = house.folders[name].join("src/lib.rs");
        let text = std::fs::read_to_string(&root).unwrap();
        let denial = "#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]";
        assert!(text.contains(denial), "{} lacks {denial}", root.display());
    }
    let list = std::fs::read_to_string(root().join("clippy.toml")).unwrap();
    for path in ["Instant::now", "SystemTime::now", "rand::rng", "UdpSocket"] {
        assert!(list.contains(path), "clippy.toml no longer forbids {path}");
    }
}

#[test]
fn unsafe_code_lives_in_the_udp_crate_only() {
    let house = House::read();
    for (name, folder) in &house.folders {
        let root = ["src/lib.rs", "src/main.rs"]
            .iter()
            .map(|f| folder.join(f))
            .find(|f| f.exists())
            .unwrap();
        let forbids = std::fs::read_to_string(&root)
            .unwrap()
            .contains("#![forbid(unsafe_code)]");
        assert!(
            forbids || name == "meridian-udp",
            "{} lacks #![forbid(unsafe_code)]",
            root.display()
        );
    }
}

#[test]
fn no_role_prints_to_standard_error_by_a_macro_that_panics_when_it_is_full() {
    let house = House::read();
    let ships = |folder: &Path| !folder.starts_with(root().join("tests"));
    for folder in house.folders.values().filter(|folder| ships(folder)) {
        for file in rust_files(&folder.join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(
                !text.contains("eprint"),
                "{}: log, or `writeln!` and go on",
                file.display()
            );
        }
    }
}

#[test]
fn ring_is_nowhere_in_what_ships() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--workspace",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "-f",
            "{p}",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(
        tree.contains("aws-lc-rs v"),
        "cargo tree shows no aws-lc-rs: is this test looking at the right thing?"
    );
    assert!(
        !tree.lines().any(|line| line.starts_with("ring v")),
        "ring came back: `cargo tree -i ring` says through whom"
    );
}

/// The edge's parts lean on each other in one direction only: what two need of each other stands in a third.
#[test]
fn no_modules_of_the_edge_import_each_other() {
    let imports = imports_in(&root().join("edge-node/node/src"));
    assert!(imports["edge"].contains("rooms"), "the test no longer sees imports");
    if let Some(circle) = circle(&imports) {
        panic!("edge-node/node: {} is a circle", circle.join(" → "));
    }
}

#[test]
fn a_circle_of_imports_is_found_and_named() {
    let text = "use crate::{b, c::Thing};\npub(crate) fn f() { crate::d::g(); }\n// crate::e\n";
    let imports = BTreeMap::from([
        ("a".to_owned(), named_modules(text)),
        ("b".to_owned(), BTreeSet::new()),
        ("c".to_owned(), named_modules("use crate::d::{self, Other};")),
        ("d".to_owned(), named_modules("use crate::a;")),
    ]);
    let names = |of: &str| imports[of].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(names("a"), ["b", "c", "d"]);
    assert_eq!(circle(&imports).unwrap(), ["a", "c", "d", "a"]);
}

/// Which of a crate's top modules each of them names.
fn imports_in(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(src) {
        let below = file.strip_prefix(src).unwrap().with_extension("");
        let module = below.iter().next().unwrap().to_str().unwrap();
        if module == "lib" {
            continue;
        }
        let mut named = named_modules(&std::fs::read_to_string(&file).unwrap());
        named.remove(module);
        imports.entry(module.to_owned()).or_default().extend(named);
    }
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    imports
        .values_mut()
        .for_each(|named| named.retain(|name| modules.contains(name)));
    imports
}

/// The names that follow `crate::` in code.
fn named_modules(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => named.extend(names_of_group(group)),
            None => named.extend(first_name(rest)),
        }
    }
    named
}

/// Of `a, b::{c, d}}`: a and b.
fn names_of_group(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut top = String::new();
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ if depth == 0 => top.push(letter),
            _ => {}
        }
    }
    top.split(',').filter_map(first_name).collect()
}

fn first_name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The first circle of a depth-first walk, from a module to itself.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|start| walk(imports, start, &mut Vec::new(), &mut done))
}

fn walk(
    imports: &BTreeMap<String, BTreeSet<String>>,
    module: &str,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(at) = path.iter().position(|passed| passed == module) {
        let mut circle = path[at..].to_vec();
        circle.push(module.to_owned());
        return Some(circle);
    }
    if done.contains(module) {
        return None;
    }
    path.push(module.to_owned());
    let next = imports.get(module).into_iter().flatten();
    let found = next.into_iter().find_map(|next| walk(imports, next, path, done));
    path.pop();
    done.insert(module.to_owned());
    found
}

struct House {
    /// Our crates and where they stand.
    folders: BTreeMap<String, PathBuf>,
    /// Everybody's normal dependencies for Linux, by package id.
    direct: BTreeMap<String, Vec<String>>,
    names: BTreeMap<String, String>,
}

impl House {
    fn read() -> House {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let names: BTreeMap<_, _> = packages.iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
        let ours = packages.iter().filter(|package| package["source"].is_null());
        let folder = |package: &serde_json::Value| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            (text(&package["name"]), manifest.parent().unwrap().to_owned())
        };
        let is_normal = |dep: &&serde_json::Value| {
            let kinds = dep["dep_kinds"].as_array().unwrap();
            kinds.iter().any(|kind| kind["kind"].is_null())
        };
        let direct = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| {
            let normal = node["deps"].as_array().unwrap().iter().filter(is_normal);
            (text(&node["id"]), normal.map(|dep| text(&dep["pkg"])).collect())
        });
        House {
            folders: ours.map(folder).collect(),
            direct: direct.collect(),
            names,
        }
    }

    /// The names of all packages that this one is built with, directly or not.
    fn all_dependencies(&self, name: &str) -> BTreeSet<String> {
        let ours = |id: &&String| self.names[*id] == name && id.starts_with("path+");
        let mut open: Vec<&String> = self.names.keys().filter(ours).collect();
        assert_eq!(open.len(), 1, "{name} is not one crate of the workspace");
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            open.extend(self.direct[id].iter().filter(|next| seen.insert(next.as_str())));
        }
        seen.into_iter().map(|id| self.names[id].clone()).collect()
    }

    fn crates_under(&self, folder: &str) -> Vec<String> {
        self.folders
            .keys()
            .filter(|name| self.is_under(name, folder))
            .cloned()
            .collect()
    }

    fn is_under(&self, name: &str, folder: &str) -> bool {
        self.folders
            .get(name)
            .is_some_and(|path| path.starts_with(root().join(folder)))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            found.push(path);
        }
    }
    found
}

/// Unit tests in files of their own: `tests.rs`, `association_tests.rs`.
fn is_test(path: &Path) -> bool {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .is_some_and(|stem| stem.ends_with("tests"))
}

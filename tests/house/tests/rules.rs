//! ARCHITECTURE.md says how the crates lean on each other; these tests keep it true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const SANS_IO: [&str; 8] = [
    "meridian-dtls-guard",
    "meridian-transport",
    "meridian-sfu",
    "meridian-room",
    "meridian-signalling",
    "meridian-cascade",
    "meridian-shard-api",
    "meridian-recorder",
];

#[test]
fn the_edge_depends_on_the_control_planes_two_leaves_only() {
    let house = House::read();
    let edge = house.crates_under("edge-node");
    for name in &edge {
        for dependency in house.dependencies(name) {
            if house.is_under(&dependency, "control-plane") {
                assert!(
                    ["meridian-api", "meridian-registry"].contains(&dependency.as_str()),
                    "{name} depends on {dependency}: an edge may use control-plane/api and control-plane/registry only"
                );
            }
        }
    }
}

#[test]
fn leaves_depend_on_no_other_room_of_the_house() {
    let house = House::read();
    for leaf in [
        "meridian-api",
        "meridian-registry",
        "meridian-udp",
        "meridian-dtls-guard",
        "meridian-room",
        "meridian-sfu",
    ] {
        let inside: Vec<_> = house
            .dependencies(leaf)
            .into_iter()
            .filter(|d| house.folders.contains_key(d))
            .collect();
        assert!(inside.is_empty(), "{leaf} is a leaf but depends on {inside:?}");
    }
}

#[test]
fn sans_io_crates_use_no_runtime_and_no_socket() {
    let house = House::read();
    for name in SANS_IO {
        for dependency in house.dependencies(name) {
            assert!(
                !["tokio", "quinn", "mio", "socket2", "axum", "tonic", "libc"].contains(&dependency.as_str()),
                "{name} is sans-IO but depends on {dependency}"
            );
        }
    }
}

#[test]
fn sans_io_crates_read_no_clock_and_no_global_randomness() {
    let house = House::read();
    for name in SANS_IO {
        for file in rust_files(&house.folders[name].join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            // Unit tests at the bottom of a file may take a first `Instant` from the clock.
            let code = text.split("#[cfg(test)]").next().unwrap();
            for (number, line) in code
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                for banned in [
                    "Instant::now",
                    "SystemTime::now",
                    "thread_rng",
                    "rand::rng()",
                    "std::net::UdpSocket",
                ] {
                    assert!(
                        !line.contains(banned),
                        "{}:{}: {banned} in a sans-IO crate",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
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

struct House {
    folders: BTreeMap<String, PathBuf>,
    direct: BTreeMap<String, BTreeSet<String>>,
}

impl House {
    fn read() -> House {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut house = House {
            folders: BTreeMap::new(),
            direct: BTreeMap::new(),
        };
        for package in metadata["packages"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap().to_owned();
            let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
            let normal = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|d| d["kind"].is_null());
            let names = normal.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
            house.direct.insert(name.clone(), names);
            house.folders.insert(name, manifest.parent().unwrap().to_owned());
        }
        house
    }

    fn dependencies(&self, name: &str) -> BTreeSet<String> {
        self.direct[name].clone()
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

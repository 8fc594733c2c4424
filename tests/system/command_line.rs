//! What a user types: help, configuration files and their mistakes, certificates. No process here stays up.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use meridian_config::{Loader, Settings, undocumented_keys};
use meridian_control_plane::ControlPlaneConfig;
use meridian_node::EdgeConfig;
use meridian_pki::NodeIdentity;

#[path = "../../src/turn/config.rs"]
mod turn_config;
use turn_config::TurnProcessConfig;

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn meridian(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(arguments)
        .env_clear()
        .env("MERIDIAN_LOG", "error")
        .output()
        .unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("meridian-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    /// An authority, and a certificate of fra-1's in `fra-1`.
    fn certify(&self) {
        assert_eq!(
            meridian(&["pki", "create", "--out", &self.path("authority")]).code,
            Some(0)
        );
        let issue = [
            "pki",
            "node",
            "fra-1",
            "--authority",
            &self.path("authority"),
            "--out",
            &self.path("fra-1"),
        ];
        assert_eq!(meridian(&issue).code, Some(0));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/config").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn is_complete_and_true<T: Settings>(name: &str) {
    let text = example(name);
    let missing = undocumented_keys::<T>(&text);
    assert!(missing.is_empty(), "deploy/config/{name} does not document {missing:?}");
    Loader::new("MERIDIAN")
        .file_text(name, &text)
        .env([])
        .load::<T>()
        .unwrap();
    // The defaults that it names must be the real ones: uncommented, they change nothing. Examples of what has no default, and
    // files that are not on this machine, stay comments.
    let shown: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ").filter(|rest| is_default(rest)) {
            Some(rest) => format!("{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let load = |text: &str| {
        let loaded = Loader::new("MERIDIAN").file_text(name, text).env([]).load::<T>();
        serde_json::to_value(loaded.unwrap_or_else(|error| panic!("{error}")).value).unwrap()
    };
    assert_eq!(
        load(&text),
        load(&shown),
        "a default named in deploy/config/{name} is not the real one"
    );
}

fn is_default(line: &str) -> bool {
    let no_default = [
        "latitude",
        "longitude",
        "certificate",
        "private_key",
        "advertise = \"",
        "web_directory",
        "database",
        "asn_database",
        "region_weights_ms",
        "devkey",
        "ana",
        "zone",
        "srv",
        "name_servers",
    ];
    let is_setting = line
        .split_once(" = ")
        .is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    is_setting && !no_default.iter().any(|start| line.starts_with(start))
}

#[test]
fn the_example_files_document_every_key_and_its_real_default() {
    is_complete_and_true::<EdgeConfig>("edge.toml");
    is_complete_and_true::<ControlPlaneConfig>("control-plane.toml");
    is_complete_and_true::<TurnProcessConfig>("turn.toml");
}

#[test]
fn every_subcommand_explains_itself() {
    let all = [
        (vec![], "control-plane"),
        (vec!["edge"], "--http-bind"),
        (vec!["control-plane"], "--grpc-bind"),
        (vec!["turn"], "--relay"),
        (vec!["dev"], "--registry"),
        (vec!["pki"], "create"),
        (vec!["pki", "create"], "--out"),
        (vec!["pki", "node"], "--authority"),
        (vec!["pki", "enrol"], "--token"),
        (vec!["doctor"], "control-plane"),
        (vec!["doctor", "edge"], "--json"),
        (vec!["plan"], "--viewers"),
    ];
    for (mut command, mentions) in all {
        command.push("--help");
        let help = meridian(&command);
        assert_eq!(help.code, Some(0), "{command:?}");
        assert!(
            help.stdout.contains(mentions),
            "{command:?} says nothing of {mentions}:\n{}",
            help.stdout
        );
        // An option is described behind its name, or in the line below.
        let lines: Vec<&str> = help.stdout.lines().collect();
        let bare = lines
            .windows(2)
            .find(|pair| pair[0].trim_start().starts_with('-') && pair[0].ends_with('>') && pair[1].trim().is_empty());
        assert_eq!(bare, None, "{command:?} leaves an option without a word");
    }
}

#[test]
fn a_misspelt_key_is_refused_with_file_line_and_the_nearest_name() {
    let folder = Folder::new("misspelt");
    let file = folder.write("edge.toml", "[node]\nid = 'fra-1'\nregoin = 'fra'\n");
    let edge = meridian(&["edge", "--check", "-c", &file]);
    assert_eq!((edge.code, edge.stdout.as_str()), (Some(1), ""));
    assert!(
        edge.stderr
            .contains("edge.toml:3: node.regoin: unknown key; did you mean `region`?"),
        "{}",
        edge.stderr
    );
    let control = meridian(&["control-plane", "--check", "--set", "htp.bind=127.0.0.1:0"]);
    assert_eq!(control.code, Some(1));
    assert!(
        control.stderr.contains("--set") && control.stderr.contains("`http.bind`"),
        "{}",
        control.stderr
    );
}

#[test]
fn wrong_values_are_named_together_with_where_they_come_from() {
    let folder = Folder::new("values");
    let file = folder.write(
        "edge.toml",
        "[node]\nid = 'Fra 1'\nregion = 'fra'\n[registry]\nkind = 'etcd'\n",
    );
    let edge = meridian(&["edge", "--check", "-c", &file, "--http-bind", "0.0.0.0:443"]);
    assert_eq!(edge.code, Some(1));
    for expected in [
        "edge.toml:2: node.id",
        "flag --http-bind: http.bind",
        "registry.endpoints",
    ] {
        assert!(
            edge.stderr.contains(expected),
            "no word of {expected}:\n{}",
            edge.stderr
        );
    }
    assert!(
        meridian(&["edge", "--check", "-c", "/no/such/file.toml"])
            .stderr
            .contains("/no/such/file.toml")
    );
}

#[test]
fn certificates_are_issued_checked_and_never_overwritten() {
    let folder = Folder::new("pki");
    folder.certify();
    let again = meridian(&["pki", "create", "--out", &folder.path("authority")]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("already holds an authority"), "{}", again.stderr);
    let identity = NodeIdentity::load(&folder.0.join("fra-1")).unwrap();
    assert_eq!(identity.name().unwrap().id, "fra-1");
    let nameless = [
        "pki",
        "node",
        "Fra_1",
        "--authority",
        &folder.path("authority"),
        "--out",
        &folder.path("x"),
    ];
    assert_eq!(meridian(&nameless).code, Some(1));
    let nowhere = meridian(&[
        "pki",
        "node",
        "iad-1",
        "--authority",
        &folder.path("none"),
        "--out",
        &folder.path("x"),
    ]);
    assert!(
        nowhere.code == Some(1) && nowhere.stderr.contains("--authority"),
        "{}",
        nowhere.stderr
    );
}

#[test]
fn check_says_yes_only_when_the_edge_would_start() {
    let folder = Folder::new("check");
    folder.certify();
    let check =
        |node: &str, pki: &str| meridian(&["edge", "--check", "--node-id", node, "--region", "fra", "--pki", pki]);
    let good = check("fra-1", &folder.path("fra-1"));
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    let without = check("fra-1", &folder.path("none"));
    assert_eq!(without.code, Some(1));
    assert!(without.stderr.contains("pki.directory"), "{}", without.stderr);
    let other = check("iad-1", &folder.path("fra-1"));
    assert_eq!(other.code, Some(1));
    assert!(
        other.stderr.contains("node.id is iad-1") && other.stderr.contains("fra-1's"),
        "{}",
        other.stderr
    );
}

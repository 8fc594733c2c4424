//! The loader: precedence, and errors that name the place and the remedy.

use meridian_config::{Loader, Origin, Problems, Settings, undocumented_keys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Example {
    region: String,
    http: Http,
    api_keys: BTreeMap<String, String>,
    share: f64,
    nodes: Vec<u16>,
    names: Vec<String>,
    database: Option<String>,
    limit: Option<u32>,
    turn: Vec<TurnServer>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Http {
    bind: SocketAddr,
    trust_proxy: bool,
    certificate: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnServer {
    url: String,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            bind: "127.0.0.1:8080".parse().unwrap(),
            trust_proxy: false,
            certificate: None,
        }
    }
}

impl Default for Example {
    fn default() -> Self {
        Example {
            region: "local".into(),
            http: Http::default(),
            api_keys: BTreeMap::new(),
            share: 0.5,
            nodes: vec![],
            names: vec![],
            database: None,
            limit: None,
            turn: vec![],
        }
    }
}

impl Settings for Example {
    const OPEN_TABLES: &'static [&'static str] = &["api_keys"];

    fn check(&self, problems: &mut Problems) {
        problems.require((0.0..=1.0).contains(&self.share), "share", "must be between 0 and 1");
        problems.require_file(self.http.certificate.as_deref(), "http.certificate");
    }
}

fn loader() -> Loader {
    Loader::new("MERIDIAN").env([])
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

fn error(loader: Loader) -> String {
    loader.load::<Example>().unwrap_err().to_string()
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let loaded = loader()
        .file_text(
            "m.toml",
            "region = 'file'\nshare = 0.25\n[http]\ntrust_proxy = true\n[api_keys]\na = 'x'\n[[turn]]\nurl = 'u'\n",
        )
        .env(env(&[
            ("MERIDIAN_REGION", "env"),
            ("MERIDIAN_HTTP_BIND", "0.0.0.0:1"),
            ("PATH", "/bin"),
            ("MERIDIANX", ""),
        ]))
        .flag("--region", "region", Some("flag"))
        .flag("--share", "share", None::<f64>)
        .load::<Example>()
        .unwrap();
    let value = &loaded.value;
    assert_eq!(
        (value.region.as_str(), value.share, value.http.trust_proxy),
        ("flag", 0.25, true)
    );
    assert_eq!(value.http.bind, "0.0.0.0:1".parse().unwrap());
    assert_eq!((value.api_keys["a"].as_str(), value.turn[0].url.as_str()), ("x", "u"));
    assert_eq!(loaded.origin("region"), Origin::Flag("--region".into()));
    assert_eq!(
        loaded.origin("http.bind"),
        Origin::Environment("MERIDIAN_HTTP_BIND".into())
    );
    assert_eq!(loaded.origin("share"), Origin::File("m.toml".into(), 2));
    assert_eq!(loaded.origin("limit"), Origin::Default);
}

#[test]
fn texts_from_the_environment_find_their_types() {
    let loaded = loader()
        .env(env(&[
            ("MERIDIAN_NODES", "1, 2,3"),
            ("MERIDIAN_NAMES", "1,b"),
            ("MERIDIAN_DATABASE", "123"),
            ("MERIDIAN_LIMIT", "7"),
            ("MERIDIAN_API_KEYS", "{ devkey = 'secret' }"),
            ("MERIDIAN_HTTP_TRUST_PROXY", "yes"),
            ("MERIDIAN_TURN", "[{ url = 'turn:x' }]"),
            ("MERIDIAN_SHARE", "1"),
        ]))
        .load::<Example>()
        .unwrap()
        .value;
    assert_eq!(
        (loaded.nodes, loaded.names),
        (vec![1, 2, 3], vec!["1".to_string(), "b".to_string()])
    );
    assert_eq!((loaded.database.as_deref(), loaded.limit), (Some("123"), Some(7)));
    assert_eq!(
        (loaded.api_keys["devkey"].as_str(), loaded.turn[0].url.as_str()),
        ("secret", "turn:x")
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name_and_their_line() {
    let text = error(loader().file_text("m.toml", "regoin = 'x'\n\n[http]\nbnid = '1'\n"));
    assert!(
        text.contains("m.toml:1: regoin: unknown key; did you mean `region`?"),
        "{text}"
    );
    assert!(
        text.contains("m.toml:4: http.bnid: unknown key; did you mean `bind`?"),
        "{text}"
    );
    let text = error(loader().file_text("m.toml", "trust_proxy = true"));
    assert!(text.contains("did you mean `http.trust_proxy`?"), "{text}");
    let text = error(loader().file_text("m.toml", "zzzzzzzz = true"));
    assert!(text.contains("known here: ") && text.contains("region"), "{text}");
    let text = error(loader().env(env(&[("MERIDIAN_HTTP_BNID", "x")])));
    assert!(
        text.contains("environment MERIDIAN_HTTP_BNID: unknown variable; did you mean `MERIDIAN_HTTP_BIND`?"),
        "{text}"
    );
    let text = error(loader().flag("--reg", "regio", Some(1)));
    assert!(
        text.contains("flag --reg: regio: unknown key; did you mean `region`?"),
        "{text}"
    );
    let text = error(loader().file_text("m.toml", "[[turn]]\nurl = 'a'\nuser = 'b'\n"));
    assert!(
        text.contains("m.toml:1: turn: ") && text.contains("unknown field `user`"),
        "{text}"
    );
}

#[test]
fn variables_that_are_not_settings_can_be_named() {
    let loader = loader()
        .env(env(&[("MERIDIAN_LOG", "debug"), ("MERIDIAN_TEST_X", "1")]))
        .ignore_env(&["MERIDIAN_LOG", "MERIDIAN_TEST_*"]);
    assert!(loader.load::<Example>().is_ok());
}

#[test]
fn wrong_values_name_file_and_key() {
    let text = error(loader().file_text("m.toml", "\n[http]\nbind = 'nowhere'"));
    assert!(
        text.starts_with("m.toml:3: http.bind: ") && text.contains("socket address"),
        "{text}"
    );
    let text = error(loader().env(env(&[("MERIDIAN_HTTP_TRUST_PROXY", "maybe")])));
    assert!(
        text.contains("environment MERIDIAN_HTTP_TRUST_PROXY: http.trust_proxy: `maybe` is neither true nor false"),
        "{text}"
    );
    let text = error(loader().env(env(&[("MERIDIAN_LIMIT", "many")])));
    assert!(text.starts_with("environment MERIDIAN_LIMIT: limit: "), "{text}");
    let text = error(loader().file_text("m.toml", "share = 2.0\n[http]\ncertificate = '/nowhere/x.pem'"));
    assert_eq!(
        text,
        "m.toml:1: share: must be between 0 and 1\nm.toml:3: http.certificate: there is no file /nowhere/x.pem"
    );
    let text = error(loader().file_text("m.toml", "share = = 2"));
    assert!(text.starts_with("m.toml:1: not valid TOML"), "{text}");
    let text = error(loader().file(Some("/nowhere/meridian.toml")));
    assert!(text.starts_with("/nowhere/meridian.toml: cannot be read"), "{text}");
}

#[test]
fn one_file_can_serve_several_processes() {
    let text = "[edge]\nregion = 'fra'\n[control]\nanything = 1\n";
    let load = |text: &str| {
        loader()
            .file_text("m.toml", text)
            .section("edge", &["edge", "control"])
            .load::<Example>()
    };
    assert_eq!(load(text).unwrap().value.region, "fra");
    let wrong = load("[egde]\n[edge]\n[edge.http]\nbind = 1\n").unwrap_err().to_string();
    assert!(
        wrong.contains("m.toml:1: egde: unknown section; did you mean `edge`?"),
        "{wrong}"
    );
    let wrong = load("[edge]\n\nshar = 1\n").unwrap_err().to_string();
    assert!(wrong.contains("m.toml:3: shar: "), "{wrong}");
    assert!(load("").is_ok());
}

#[test]
fn an_example_file_can_be_checked_for_completeness() {
    let example = "region = 'x'\nshare = 1.0\n# nodes = []\n# names = []\n# database = ''\n[http]\n# bind = ''\ncertificate = ''\n# [api_keys]\n# devkey = ''\n# [\"a list\"]\n# [[turn]]\n# url = ''\n";
    assert_eq!(undocumented_keys::<Example>(example), ["http.trust_proxy", "limit"]);
}

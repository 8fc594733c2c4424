//! One way to configure every process: defaults, then one TOML file, then environment, then flags; the later wins.
//!
//! A process declares a plain serde struct with `Default` and implements [`Settings`]; [`Loader`] does the rest: it refuses unknown
//! keys with the nearest known name, names the file (with its line), variable or flag in every error, and runs the process's own
//! checks on the merged result. What the keys *mean* lives with each process.
//!
//! ```
//! use meridian_config::{Loader, Problems, Settings};
//! #[derive(serde::Serialize, serde::Deserialize)]
//! #[serde(default)]
//! struct Edge { region: String, http: Http }
//! #[derive(Default, serde::Serialize, serde::Deserialize)]
//! #[serde(default)]
//! struct Http { workers: u16 }
//! impl Default for Edge { fn default() -> Self { Edge { region: "local".into(), http: Http { workers: 2 } } } }
//! impl Settings for Edge {
//!     fn check(&self, problems: &mut Problems) {
//!         problems.require(self.http.workers > 0, "http.workers", "must be at least 1");
//!     }
//! }
//! let edge: Edge = Loader::new("MERIDIAN")
//!     .file_text("edge.toml", "region = 'fra'")
//!     .env([("MERIDIAN_HTTP_WORKERS".into(), "8".into())])
//!     .flag("--region", "region", Some("iad"))
//!     .load().unwrap().value;
//! assert_eq!((edge.region.as_str(), edge.http.workers), ("iad", 8));
//! ```
#![forbid(unsafe_code)]

mod layers;
mod nearest;

use layers::{Layer, leaf_paths};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use nearest::nearest;

/// A configuration: its `Default` is both the default values and the list of known keys (whatever it serialises).
///
/// Use `#[serde(default)]` on every struct of it. An `Option` that is `None` by default is a known key of any type. Inside arrays of
/// tables, and inside optional tables, put `#[serde(deny_unknown_fields)]` on the element: its keys are not seen in the default.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// Dotted paths of tables whose keys the operator invents (maps).
    const OPEN_TABLES: &'static [&'static str] = &[];

    /// Checks values that a type cannot: ranges, files that must exist, settings that exclude each other.
    fn check(&self, problems: &mut Problems) {
        let _ = problems;
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// File and line, counted from 1 (0: unknown).
    File(String, usize),
    /// Name of the environment variable.
    Environment(String),
    /// The flag as the user writes it, `--http-bind`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(name, 0) => f.write_str(name),
            Origin::File(name, line) => write!(f, "{name}:{line}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong, said so that it can be put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// Dotted path of the key; empty if the problem is the whole source.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.message),
            key => write!(f, "{}: {key}: {}", self.origin, self.message),
        }
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Collects what [`Settings::check`] finds.
pub struct Problems {
    found: Vec<(String, String)>,
}

impl Problems {
    /// Records `message` for `key` unless `holds`.
    pub fn require(&mut self, holds: bool, key: &str, message: impl Into<String>) {
        if !holds {
            self.found.push((key.to_owned(), message.into()));
        }
    }

    /// A file that is named must exist.
    pub fn require_file(&mut self, path: Option<&Path>, key: &str) {
        if let Some(path) = path {
            self.require(path.is_file(), key, format!("there is no file {}", path.display()));
        }
    }
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    pub value: T,
    origins: BTreeMap<String, Origin>,
}

impl<T> Loaded<T> {
    /// Where the value of a dotted key came from.
    pub fn origin(&self, key: &str) -> Origin {
        origin_of(&self.origins, key)
    }
}

/// Gathers the layers. Nothing is read before [`Loader::load`].
pub struct Loader {
    prefix: String,
    file: Option<FileSource>,
    section: Option<(String, Vec<String>)>,
    environment: Option<Vec<(String, String)>>,
    ignored: Vec<String>,
    flags: Vec<(String, String, String)>,
}

enum FileSource {
    Path(PathBuf),
    Text(String, String),
}

impl Loader {
    /// `prefix` of environment variables without its underscore: `MERIDIAN` reads `http.bind` from `MERIDIAN_HTTP_BIND`.
    pub fn new(prefix: &str) -> Self {
        Loader {
            prefix: prefix.to_owned(),
            file: None,
            section: None,
            environment: None,
            ignored: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// The TOML file, if there is one. A file that is named must exist.
    pub fn file(mut self, path: Option<impl Into<PathBuf>>) -> Self {
        self.file = path.map(|path| FileSource::Path(path.into()));
        self
    }

    /// TOML text that is not in a file; `name` stands for it in errors.
    pub fn file_text(mut self, name: &str, text: &str) -> Self {
        self.file = Some(FileSource::Text(name.to_owned(), text.to_owned()));
        self
    }

    /// Reads only the table `name` of the file. The file may have the tables of `all`, for its other processes, and no more.
    pub fn section(mut self, name: &str, all: &[&str]) -> Self {
        self.section = Some((name.to_owned(), all.iter().map(|one| (*one).to_owned()).collect()));
        self
    }

    /// Uses these variables instead of the process's environment.
    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment = Some(variables.into_iter().collect());
        self
    }

    /// Variables (full names, or prefixes ending in `*`) that begin with the prefix but are not settings, such as `MERIDIAN_LOG`.
    pub fn ignore_env(mut self, names: &[&str]) -> Self {
        self.ignored.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// A flag that was given (`Some`) or not. `name` is how the user writes it.
    pub fn flag(mut self, name: &str, key: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.flags.push((name.to_owned(), key.to_owned(), value.to_string()));
        }
        self
    }

    /// Merges, checks, and gives the configuration.
    ///
    /// # Errors
    /// All problems that can be seen at once: unreadable file, unknown keys, wrong types, failed checks.
    pub fn load<T: Settings>(self) -> Result<Loaded<T>, ConfigError> {
        let schema = serde_json::to_value(T::default()).map_err(|error| {
            ConfigError(vec![Problem {
                origin: Origin::Default,
                key: String::new(),
                message: error.to_string(),
            }])
        })?;
        let open = T::OPEN_TABLES;
        let mut problems = Vec::new();
        let mut layers = Vec::new();
        match self.file_layer(&schema, open) {
            Ok((layer, found)) => {
                layers.push(layer);
                problems.extend(found);
            }
            Err(problem) => problems.push(problem),
        }
        let variables = self.environment.clone().unwrap_or_else(|| std::env::vars().collect());
        layers.push(Layer::environment(
            &self.prefix,
            &variables,
            &self.ignored,
            &schema,
            open,
            &mut problems,
        ));
        layers.push(Layer::flags(&self.flags, &schema, open, &mut problems));
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        merge_and_check(&schema, layers)
    }

    fn file_layer(&self, schema: &Value, open: &[&str]) -> Result<(Layer, Vec<Problem>), Problem> {
        let (name, text) = match &self.file {
            None => return Ok((Layer::default(), Vec::new())),
            Some(FileSource::Text(name, text)) => (name.clone(), text.clone()),
            Some(FileSource::Path(path)) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| Problem {
                    origin: Origin::File(name.clone(), 0),
                    key: String::new(),
                    message: format!("cannot be read: {error}"),
                })?;
                (name, text)
            }
        };
        Layer::file(&name, &text, self.section.as_ref(), schema, open)
    }
}

fn merge_and_check<T: Settings>(schema: &Value, layers: Vec<Layer>) -> Result<Loaded<T>, ConfigError> {
    let mut merged = schema.clone();
    let mut origins = BTreeMap::new();
    let mut alternatives: BTreeMap<String, Value> = BTreeMap::new();
    for layer in layers {
        for value in layer.values {
            layers::set(&mut merged, &value.key, value.value);
            // A later layer replaces what an earlier one said about this key and everything below it.
            let below = format!("{}.", value.key);
            origins.retain(|key: &String, _| !key.starts_with(&below));
            alternatives.remove(&value.key);
            if let Some(alternative) = value.alternative {
                alternatives.insert(value.key.clone(), alternative);
            }
            origins.insert(value.key, value.origin);
        }
    }
    let value = loop {
        match serde_path_to_error::deserialize::<_, T>(merged.clone()) {
            Ok(value) => break value,
            Err(error) => {
                let key = plain_path(&error.path().to_string());
                // "123" in the environment may be meant as text or as a number: when one fails, the other is tried.
                let ambiguous = alternatives
                    .keys()
                    .find(|one| key == **one || key.starts_with(&format!("{one}.")))
                    .cloned();
                match ambiguous.and_then(|one| alternatives.remove_entry(&one)) {
                    Some((one, alternative)) => layers::set(&mut merged, &one, alternative),
                    None => {
                        let origin = origin_of(&origins, &key);
                        let message = error.into_inner().to_string();
                        return Err(ConfigError(vec![Problem { origin, key, message }]));
                    }
                }
            }
        }
    };
    let mut problems = Problems { found: Vec::new() };
    value.check(&mut problems);
    if problems.found.is_empty() {
        return Ok(Loaded { value, origins });
    }
    let named = |(key, message): (String, String)| Problem {
        origin: origin_of(&origins, &key),
        key,
        message,
    };
    Err(ConfigError(problems.found.into_iter().map(named).collect()))
}

/// The origin of a key: its own, that of the nearest table above it, or of the first value below it.
fn origin_of(origins: &BTreeMap<String, Origin>, key: &str) -> Origin {
    let mut at = key;
    loop {
        if let Some(origin) = origins.get(at) {
            return origin.clone();
        }
        match at.rsplit_once('.') {
            Some((above, _)) => at = above,
            None => break,
        }
    }
    let below = format!("{key}.");
    origins
        .iter()
        .find(|(one, _)| one.starts_with(&below))
        .map(|(_, origin)| origin.clone())
        .unwrap_or(Origin::Default)
}

/// `servers[2].urls[0]` → `servers`: origins are kept for whole arrays.
fn plain_path(path: &str) -> String {
    let cut = path.find('[').unwrap_or(path.len());
    if path == "." {
        String::new()
    } else {
        path[..cut].to_owned()
    }
}

/// Keys of `T` that an example file does not mention, neither set nor in a comment such as `# bind = …`. For a test that keeps the
/// documented file complete.
pub fn undocumented_keys<T: Settings>(example: &str) -> Vec<String> {
    let schema = serde_json::to_value(T::default()).unwrap_or_default();
    let mut table = String::new();
    let mut seen = Vec::new();
    for line in example.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(name) = heading(line) {
            table = name.to_owned();
            seen.push(table.clone());
        } else if let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            seen.push(if table.is_empty() {
                key.to_owned()
            } else {
                format!("{table}.{key}")
            });
        }
    }
    let mentioned = |path: &String| {
        seen.iter()
            .any(|one| one == path || one.starts_with(&format!("{path}.")))
    };
    leaf_paths(&schema, T::OPEN_TABLES)
        .into_iter()
        .filter(|path| !mentioned(path))
        .collect()
}

/// The name in `[table]` or `[[array]]`; `None` for other lines, also for an array of values in a comment.
fn heading(line: &str) -> Option<&str> {
    let name = line.trim_end().strip_prefix('[')?.strip_suffix(']')?;
    let name = name
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(name)
        .trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

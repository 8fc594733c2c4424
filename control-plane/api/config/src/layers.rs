//! Turns a file, the environment and flags into lists of (key, value, origin), each checked against the known keys.

use super::{Origin, Problem, nearest};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What one source says.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) values: Vec<Setting>,
}

pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
    /// The other reading of an ambiguous text, tried when the first does not fit.
    pub(super) alternative: Option<Value>,
    pub(super) origin: Origin,
}

type Section = (String, Vec<String>);

impl Layer {
    pub(super) fn file(
        name: &str,
        text: &str,
        section: Option<&Section>,
        schema: &Value,
        open: &[&str],
    ) -> Result<(Layer, Vec<Problem>), Problem> {
        let at = |line, key: &str, message| Problem {
            origin: Origin::File(name.to_owned(), line),
            key: key.to_owned(),
            message,
        };
        let root = toml::de::DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(0, |span| line_of(text, span.start));
            at(line, "", format!("not valid TOML: {}", error.message()))
        })?;
        let mut lines = BTreeMap::new();
        note_lines(root.get_ref(), "", text, &mut lines);
        let line = |key: &str| lines.get(key).copied().unwrap_or(0);
        let table: toml::Table =
            toml::from_str(text).map_err(|error| at(0, "", format!("not valid TOML: {}", error.message())))?;
        let mut value = serde_json::to_value(table).map_err(|error| at(0, "", error.to_string()))?;
        let mut problems = Vec::new();
        let mut prefix = String::new();
        if let Some((section, all)) = section {
            for key in value
                .as_object()
                .into_iter()
                .flat_map(Map::keys)
                .filter(|key| !all.contains(key))
            {
                problems.push(at(
                    line(key),
                    key,
                    unknown("section", key, all.iter().map(String::as_str), None),
                ));
            }
            value = value
                .as_object_mut()
                .and_then(|root| root.remove(section))
                .unwrap_or_else(|| Value::Object(Map::new()));
            prefix = format!("{section}.");
            if !value.is_object() {
                problems.push(at(line(section), section, format!("must be a table: [{section}]")));
            }
        }
        let mut layer = Layer::default();
        let mut leaves = Vec::new();
        flatten(&value, schema, "", open, &mut leaves);
        for (key, leaf) in leaves {
            let line = line(&format!("{prefix}{key}"));
            match leaf {
                Ok(value) => {
                    let origin = Origin::File(name.to_owned(), line);
                    layer.values.push(Setting {
                        key,
                        value,
                        alternative: None,
                        origin,
                    });
                }
                Err(message) => problems.push(at(line, &key, message)),
            }
        }
        Ok((layer, problems))
    }

    pub(super) fn environment(
        prefix: &str,
        variables: &[(String, String)],
        ignored: &[String],
        schema: &Value,
        open: &[&str],
        problems: &mut Vec<Problem>,
    ) -> Layer {
        let start = format!("{prefix}_");
        let known: BTreeMap<String, String> = leaf_paths(schema, open)
            .into_iter()
            .map(|path| (variable_name(prefix, &path), path))
            .collect();
        let is_ignored = |name: &str| {
            ignored.iter().any(|one| {
                one.strip_suffix('*')
                    .map_or(one == name, |prefix| name.starts_with(prefix))
            })
        };
        let mut layer = Layer::default();
        for (name, text) in variables
            .iter()
            .filter(|(name, _)| name.starts_with(&start) && !is_ignored(name))
        {
            let origin = Origin::Environment(name.clone());
            match known.get(name) {
                Some(path) => layer.text(path, text, origin, schema, problems),
                None => {
                    let message = unknown("variable", name, known.keys().map(String::as_str), None);
                    problems.push(Problem {
                        origin,
                        key: String::new(),
                        message,
                    });
                }
            }
        }
        layer
    }

    pub(super) fn flags(
        flags: &[(String, String, String)],
        schema: &Value,
        open: &[&str],
        problems: &mut Vec<Problem>,
    ) -> Layer {
        let known = leaf_paths(schema, open);
        let mut layer = Layer::default();
        for (name, key, text) in flags {
            let origin = Origin::Flag(name.clone());
            if known.contains(key) {
                layer.text(key, text, origin, schema, problems);
            } else {
                let message = unknown("key", key, known.iter().map(String::as_str), None);
                problems.push(Problem {
                    origin,
                    key: key.clone(),
                    message,
                });
            }
        }
        layer
    }

    fn text(&mut self, key: &str, text: &str, origin: Origin, schema: &Value, problems: &mut Vec<Problem>) {
        match readings(text, get(schema, key)) {
            Ok((value, alternative)) => self.values.push(Setting {
                key: key.to_owned(),
                value,
                alternative,
                origin,
            }),
            Err(message) => problems.push(Problem {
                origin,
                key: key.to_owned(),
                message,
            }),
        }
    }
}

/// What a text can mean for a key whose default is `like`: the likelier reading, and the other one.
fn readings(text: &str, like: Option<&Value>) -> Result<(Value, Option<Value>), String> {
    let single = |value| Ok((value, None));
    match like {
        Some(Value::String(_)) => single(Value::from(text)),
        Some(Value::Bool(_)) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => single(Value::Bool(true)),
            "false" | "no" | "off" | "0" => single(Value::Bool(false)),
            _ => Err(format!("`{text}` is neither true nor false")),
        },
        Some(Value::Number(number)) if number.is_f64() => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => single(Value::from(number)),
            _ => Err(format!("`{text}` is not a number")),
        },
        Some(Value::Number(_)) => {
            let whole = text
                .parse::<i64>()
                .map(Value::from)
                .or_else(|_| text.parse::<u64>().map(Value::from));
            whole.map_or_else(|_| Err(format!("`{text}` is not a whole number")), single)
        }
        Some(Value::Array(_)) if text.trim_start().starts_with('[') => single(toml_value(text)?),
        Some(Value::Array(_)) => {
            let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
            let typed: Option<Vec<Value>> = parts.iter().map(|part| toml_value(part).ok()).collect();
            Ok((Value::from(parts), typed.map(Value::Array)))
        }
        Some(Value::Object(_)) => {
            single(toml_value(text).map_err(|_| "expected a TOML table: { name = \"value\" }".to_owned())?)
        }
        Some(Value::Null) | None => Ok((Value::from(text), toml_value(text).ok())),
    }
}

fn toml_value(text: &str) -> Result<Value, String> {
    let mut table: toml::Table =
        toml::from_str(&format!("value = {text}")).map_err(|error| error.message().to_owned())?;
    match table.remove("value") {
        Some(value) if table.is_empty() => serde_json::to_value(value).map_err(|error| error.to_string()),
        _ => Err("not a TOML value".to_owned()),
    }
}

/// Walks a file's values beside the known keys: leaves to set, and unknown keys as errors.
fn flatten(value: &Value, schema: &Value, path: &str, open: &[&str], out: &mut Vec<(String, Result<Value, String>)>) {
    let (Value::Object(given), Value::Object(known)) = (value, schema) else {
        out.push((path.to_owned(), Ok(value.clone())));
        return;
    };
    if open.contains(&path) {
        out.push((path.to_owned(), Ok(value.clone())));
        return;
    }
    for (key, value) in given {
        let full = join(path, key);
        match known.get(key) {
            Some(schema) => flatten(value, schema, &full, open, out),
            None => {
                let elsewhere = leaf_paths_of_name(schema, key);
                out.push((
                    full,
                    Err(unknown(
                        "key",
                        key,
                        known.keys().map(String::as_str),
                        elsewhere.as_deref(),
                    )),
                ));
            }
        }
    }
}

fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    elsewhere: Option<&str>,
) -> String {
    match (nearest(name, known.clone()), elsewhere) {
        (Some(near), _) => format!("unknown {what}; did you mean `{near}`?"),
        (None, Some(path)) => format!("unknown {what} here; did you mean `{path}`?"),
        (None, None) => {
            let list: Vec<&str> = known.take(20).collect();
            format!("unknown {what}; known here: {}", list.join(", "))
        }
    }
}

/// A key of this name deeper in the known keys: the operator may have left out the table's heading.
fn leaf_paths_of_name(schema: &Value, name: &str) -> Option<String> {
    leaf_paths(schema, &[])
        .into_iter()
        .find(|path| path.rsplit('.').next() == Some(name))
}

/// Dotted paths of everything that can be set by one text.
pub(super) fn leaf_paths(schema: &Value, open: &[&str]) -> Vec<String> {
    fn walk(value: &Value, path: &str, open: &[&str], out: &mut Vec<String>) {
        match value {
            Value::Object(fields) if path.is_empty() || !open.contains(&path) => {
                for (key, value) in fields {
                    walk(value, &join(path, key), open, out);
                }
            }
            _ => out.push(path.to_owned()),
        }
    }
    let mut out = Vec::new();
    walk(schema, "", open, &mut out);
    out
}

fn variable_name(prefix: &str, path: &str) -> String {
    format!("{prefix}_{}", path.replace(['.', '-'], "_").to_ascii_uppercase())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn get<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(root, |value, key| value.get(key))
}

/// Sets a dotted path; tables on the way are made.
pub(super) fn set(root: &mut Value, path: &str, value: Value) {
    let mut at = root;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        match at {
            Value::Object(fields) => at = fields.entry(key).or_insert(Value::Null),
            _ => return,
        }
    }
    *at = value;
}

fn note_lines(table: &toml::de::DeTable<'_>, path: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let full = join(path, key.get_ref());
        lines
            .entry(full.clone())
            .or_insert_with(|| line_of(text, key.span().start));
        if let toml::de::DeValue::Table(inner) = value.get_ref() {
            note_lines(inner, &full, text, lines);
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

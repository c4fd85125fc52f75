//! One config file: its text, its values, and where in it a value stands.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::environment::Environment;
use super::expanding::Expanding;
use super::{ConfigError, Place};

/// A config file that has been read.
pub(super) struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    /// Reads a file; a failure is reported at `asked_for`, the place that names the file, or else at the file's start.
    pub(super) fn read(file: &Path, asked_for: Option<Place>) -> Result<Source, ConfigError> {
        let bytes = fs::read(file).map_err(|source| ConfigError::Unreadable {
            place: asked_for.unwrap_or_else(|| Place::start_of(file)),
            file: file.to_owned(),
            source,
        })?;
        match String::from_utf8(bytes) {
            // A byte order mark would count as a column.
            Ok(text) => {
                Ok(Source { file: file.to_owned(), text: text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned() })
            }
            Err(error) => {
                let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
                let line = valid.matches('\n').count() + 1;
                let column = valid.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
                let place = Place { file: file.to_owned(), line, column };
                Err(ConfigError::Invalid { place, message: "the file is not UTF-8 here".to_owned() })
            }
        }
    }

    #[cfg(test)]
    pub(super) fn of(file: &str, text: &str) -> Source {
        Source { file: file.into(), text: text.to_owned() }
    }

    /// Its values.
    pub(super) fn parse<T: DeserializeOwned>(&self, environment: Environment<'_>) -> Result<T, ConfigError> {
        let yaml = serde_yaml::Deserializer::from_str(&self.text);
        T::deserialize(Expanding::new(yaml, environment)).map_err(|error| self.invalid(&error))
    }

    /// Where the value at this path of keys stands, or `None` when the file does not have it. The file must have been
    /// parsed already, so that it is known to be sound.
    pub(super) fn place_of(&self, path: &[&str]) -> Option<Place> {
        let yaml = serde_yaml::Deserializer::from_str(&self.text);
        Seek { path }.deserialize(yaml).err().and_then(|found| self.place(&found))
    }

    /// Its first character, for what has no other place.
    pub(super) fn start(&self) -> Place {
        Place::start_of(&self.file)
    }

    fn invalid(&self, error: &serde_yaml::Error) -> ConfigError {
        let place = self.place(error).or_else(|| self.second_document()).unwrap_or_else(|| self.start());
        let position = format!(" at line {} column {}", place.line, place.column);
        ConfigError::Invalid { place, message: without_value(&error.to_string().replacen(&position, "", 1)) }
    }

    /// Where a second document begins: the parser refuses it without saying where.
    fn second_document(&self) -> Option<Place> {
        let document = serde_yaml::Deserializer::from_str(&self.text).nth(1)?;
        Here.deserialize(document).err().and_then(|found| self.place(&found))
    }

    fn place(&self, error: &serde_yaml::Error) -> Option<Place> {
        let location = error.location()?;
        Some(Place { file: self.file.clone(), line: location.line(), column: location.column() })
    }
}

/// The message without the value that it is about: where it stands is told, and it may be a secret in the wrong place.
fn without_value(message: &str) -> String {
    for (kind, quote) in [("string", '"'), ("integer", '`'), ("floating point", '`')] {
        let type_of = format!("invalid type: {kind}");
        if let Some((before, value)) = message.split_once(&format!("{type_of} {quote}"))
            && let Some((_, expected)) = value.rsplit_once(", expected ")
        {
            return format!("{before}{type_of}, expected {expected}");
        }
    }
    message.to_owned()
}

/// Walks down a path of keys and raises an error at its end: the parser puts the position into errors, and nowhere
/// else.
struct Seek<'a> {
    path: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, node: D) -> Result<(), D::Error> {
        if self.path.is_empty() { Here.deserialize(node) } else { node.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a mapping")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.path.split_first() {
                Some((first, rest)) if *first == key => map.next_value_seed(Seek { path: rest })?,
                _ => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }
}

/// Refuses whatever it is shown: a visitor's methods are errors unless they are written.
struct Here;

impl<'de> DeserializeSeed<'de> for Here {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, node: D) -> Result<(), D::Error> {
        node.deserialize_any(self)
    }
}

impl Visitor<'_> for Here {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("to be found")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of("c.yaml", text)
    }

    #[test]
    fn values_are_found_where_they_stand() {
        let text = "# first\na:\n  b: 1\n  c: [x,\n    y]\nd: {e: 'q'}\nf:\n  g:\n    h: i\nn:\n";
        for (path, expected) in [
            (&["a"][..], Some("c.yaml:3:3")),
            (&["a", "b"], Some("c.yaml:3:6")),
            (&["a", "c"], Some("c.yaml:4:6")),
            (&["d", "e"], Some("c.yaml:6:8")),
            (&["f"], Some("c.yaml:8:3")),
            (&["a", "z"], None),
            (&["z"], None),
            (&["n", "z"], None),
        ] {
            assert_eq!(source(text).place_of(path).map(|place| place.to_string()).as_deref(), expected, "{path:?}");
        }
        assert_eq!(source("").place_of(&["a"]), None);
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(source("{é: ü, b: 1}").place_of(&["b"]).unwrap().column, 11);
    }
}

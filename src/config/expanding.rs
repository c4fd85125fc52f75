//! A serde `Deserializer` around another one that expands variables in scalars, takes an empty block (`redis:` with
//! nothing under it) for an empty mapping, and refuses a key that is written twice.
//!
//! Every error is raised while the inner deserializer is at the offending node, so that it gets that node's line and
//! column from it.

use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::value::{MapDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Error, Expected, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::environment::Environment;

/// A deserializer whose scalars are expanded.
pub(super) struct Expanding<'a, D> {
    inner: D,
    environment: Environment<'a>,
}

impl<'a, D> Expanding<'a, D> {
    pub(super) fn new(inner: D, environment: Environment<'a>) -> Self {
        Expanding { inner, environment }
    }

    fn node<V>(&self, visitor: V, wanted: Wanted) -> Node<'a, V> {
        Node { visitor, wanted, environment: self.environment }
    }
}

/// What the reader of a node asked for, as far as it matters to expansion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A text, or whatever the node is.
    Text,
    /// A number, a bool or whatever the node is: expanded text is read as a plain scalar would be.
    Plain,
    /// A mapping.
    Block,
}

macro_rules! ask_for_whatever_it_is {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let node = self.node(visitor, Wanted::Plain);
            self.inner.deserialize_any(node)
        })*
    };
}

macro_rules! ask_for_text {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let node = self.node(visitor, Wanted::Text);
            self.inner.deserialize_str(node)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Expanding<'_, D> {
    type Error = D::Error;

    ask_for_whatever_it_is! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_unit
    }

    ask_for_text! { deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let node = self.node(visitor, Wanted::Plain);
        self.inner.deserialize_any(node)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let node = self.node(visitor, Wanted::Plain);
        self.inner.deserialize_option(node)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let node = self.node(visitor, Wanted::Plain);
        self.inner.deserialize_newtype_struct(name, node)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let node = self.node(visitor, Wanted::Plain);
        self.inner.deserialize_seq(node)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let node = self.node(visitor, Wanted::Block);
        self.inner.deserialize_any(node)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_map(visitor)
    }

    /// Enums of this config have unit variants only: their name is a text like any other.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_str(VariantName(visitor))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_identifier(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }
}

/// Hands on what it is shown, texts expanded, and everything below it wrapped.
struct Node<'a, V> {
    visitor: V,
    wanted: Wanted,
    environment: Environment<'a>,
}

impl<'de, V: Visitor<'de>> Node<'_, V> {
    /// Shows an expanded text: to whom did not ask for text, as YAML's core schema would have it, had it been written
    /// in the file.
    fn expanded(self, text: String) -> Result<V::Value, Quiet> {
        if self.wanted == Wanted::Text {
            return self.visitor.visit_string(text);
        }
        if let "true" | "True" | "TRUE" = text.as_str() {
            return self.visitor.visit_bool(true);
        }
        if let "false" | "False" | "FALSE" = text.as_str() {
            return self.visitor.visit_bool(false);
        }
        // "007" is a text in YAML, too.
        let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
        if digits == "0" || !digits.starts_with('0') {
            if let Ok(number) = text.parse() {
                return self.visitor.visit_u64(number);
            }
            if let Ok(number) = text.parse() {
                return self.visitor.visit_i64(number);
            }
        }
        self.visitor.visit_string(text)
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Node<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.visitor.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.visitor.visit_i64(value)
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<V::Value, E> {
        self.visitor.visit_i128(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.visitor.visit_u64(value)
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<V::Value, E> {
        self.visitor.visit_u128(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.visitor.visit_f64(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        if self.wanted == Wanted::Block {
            return self.visitor.visit_str(text);
        }
        match self.environment.expand(text).map_err(E::custom)? {
            None => self.visitor.visit_str(text),
            Some(expanded) => self.expanded(expanded).map_err(E::custom),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        match self.wanted {
            Wanted::Block => {
                let nothing: [(&str, &str); 0] = [];
                self.visitor.visit_map(MapDeserializer::new(nothing.into_iter()))
            }
            Wanted::Text | Wanted::Plain => self.visitor.visit_unit(),
        }
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        match self.wanted {
            Wanted::Block => self.visit_unit(),
            Wanted::Text | Wanted::Plain => self.visitor.visit_none(),
        }
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Expanding::new(inner, self.environment))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Expanding::new(inner, self.environment))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        if self.wanted == Wanted::Block {
            // A derived struct would take the list for its fields in their order.
            return Err(A::Error::invalid_type(Unexpected::Seq, &self.visitor));
        }
        self.visitor.visit_seq(Elements { inner, environment: self.environment })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Entries { inner, environment: self.environment, seen: HashSet::new() })
    }
}

/// What a reader says of a text that came from the environment, without the text: it may be a secret in the wrong
/// place.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Quiet(String);

impl Error for Quiet {
    fn custom<T: fmt::Display>(message: T) -> Quiet {
        Quiet(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Quiet {
        Quiet(format!("invalid type: what the variable gives is not {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Quiet {
        Quiet(format!("invalid value: what the variable gives is not {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Quiet {
        Quiet(format!("what the variable gives is not one of `{}`", expected.join("`, `")))
    }
}

/// A seed for a value below the node.
struct Below<'a, S> {
    seed: S,
    environment: Environment<'a>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Below<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Expanding::new(inner, self.environment))
    }
}

struct Elements<'a, A> {
    inner: A,
    environment: Environment<'a>,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Below { seed, environment: self.environment })
    }
}

struct Entries<'a, A> {
    inner: A,
    environment: Environment<'a>,
    seen: HashSet<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(Key { inner: seed, seen: &mut self.seen })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Below { seed, environment: self.environment })
    }
}

/// A key, as seed, as deserializer and as visitor: a text that must not have been seen in this mapping.
struct Key<'a, T> {
    inner: T,
    seen: &'a mut HashSet<String>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Key { inner, seen: self.seen })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(Key { inner: visitor, seen: self.seen })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Key<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<V::Value, E> {
        if !self.seen.insert(key.to_owned()) {
            return Err(E::custom(format_args!("duplicate key `{key}`")));
        }
        self.inner.visit_str(key)
    }
}

/// Shows a text to the visitor of an enum as the name of a unit variant.
struct VariantName<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for VariantName<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        self.0.visit_enum(StringDeserializer::new(name.to_owned()))
    }
}

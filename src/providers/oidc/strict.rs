//! Foreign JSON, read strictly: bounded depth, and no member twice on any level.
//!
//! Two parsers that pick different ones of two equal members are how a checked token becomes another token (RFC 8725 3.3).

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

const DEPTH_MAX: u8 = 32;

/// An object and nothing else.
///
/// # Errors
/// A short reason without any of the content.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(0).deserialize(&mut json).and_then(|v| json.end().map(|()| v));
    match value {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("not a JSON object".to_owned()),
        // serde_json's message may quote the content; its position and class do not.
        Err(e) if e.is_data() => Err("repeated member or too deep".to_owned()),
        Err(e) => Err(format!("not JSON (line {}, column {})", e.line(), e.column())),
    }
}

#[derive(Clone, Copy)]
struct Strict(u8);

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.0 >= DEPTH_MAX { Err(E::custom("too deep")) } else { Ok(Self(self.0 + 1)) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(deeper)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(deeper)?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("repeated member"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tk_11_a_repeated_member_is_refused_on_every_level() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
        assert!(object(br#"{"a":{"b":1},"c":{"b":2}}"#).is_ok());
    }

    #[test]
    fn tk_12_nesting_is_bounded() {
        let nested = |n: usize| format!("{}1{}", r#"{"a":"#.repeat(n), "}".repeat(n));
        assert!(object(nested(32).as_bytes()).is_ok());
        assert!(object(nested(33).as_bytes()).is_err());
        assert!(object(format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes()).is_err());
    }

    #[test]
    fn only_one_whole_object_is_read() {
        for text in ["", "[]", "1", "{} {}", "{}x", "null", "\u{feff}{}", "{\"a\":1e400}"] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = object(&bytes);
        }
    }
}

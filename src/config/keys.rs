//! `[keys]`: the ring that seals stored tokens. Only named here; read and derived elsewhere.

use std::path::{Path, PathBuf};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::{ExposeSecret as _, SecretString};

use super::reader::Reader;

/// The `[keys]` section.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The id of the key that seals; the others only open.
    pub current: String,
    /// Every key by its id.
    pub ring: Vec<KeySource>,
}

/// One entry of the ring.
#[derive(Clone, Debug)]
pub struct KeySource {
    /// `[a-z0-9_-]{1,32}`; it stands in every sealed value.
    pub id: String,
    /// Where the key comes from.
    pub material: KeyMaterial,
}

/// Where a key comes from.
#[derive(Clone, Debug)]
pub enum KeyMaterial {
    /// A file of 32 raw bytes, or of their hex or base64 text. It may not exist yet.
    File(PathBuf),
    /// The hex or base64 text of 32 bytes, checked to be that and not weak.
    Value(SecretString),
    /// A file with a passphrase, to be stretched by Argon2id.
    PassphraseFile(PathBuf),
}

const SOURCES: [&str; 3] = ["file", "value", "passphrase_file"];

/// With a development provider (`may_make`) a missing key file is made later; anywhere else it
/// is a fault, for a new key would open nothing that the old one sealed.
pub(super) fn read(mut section: Reader<'_>, may_make: bool) -> Keys {
    let current = section.string("current", "k1");
    let mut ring = Vec::new();
    let written = section.has("ring");
    let mut table = section.table("ring");
    for id in table.keys() {
        if !is_key_id(&id) {
            let advice = "use 1 to 32 lower-case letters, digits, - and _";
            table.fault(&id, "is not a key id", advice);
        }
        if let Some(material) = material(table.table(&id), may_make) {
            ring.push(KeySource { id, material });
        }
    }
    let known = if written { table.keys() } else { vec!["k1".to_owned()] };
    if !written {
        let path = section.report.resolve("secrets/k1");
        if !may_make {
            missing_file(&section, "ring", &path);
        }
        ring.push(KeySource { id: "k1".to_owned(), material: KeyMaterial::File(path) });
    }
    if !known.contains(&current) {
        let advice = if known.is_empty() {
            "add it: ring = { k1 = { file = \"secrets/k1\" } }".to_owned()
        } else {
            format!("name one of {}", known.join(", "))
        };
        section.fault("current", &format!("\"{current}\" is not in the ring"), &advice);
    }
    section.finish();
    Keys { current, ring }
}

fn is_key_id(id: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=32).contains(&id.len()) && id.bytes().all(|byte| is_letter(byte) || b"-_".contains(&byte))
}

fn missing_file(reader: &Reader<'_>, key: &str, path: &Path) {
    if !path.exists() {
        let problem = format!("the key file {} does not exist", path.display());
        let advice = "restore the one that sealed the database, or make a first one: \
                      head -c 32 /dev/urandom > <file>, readable by doorward alone";
        reader.fault(key, &problem, advice);
    }
}

fn material(mut entry: Reader<'_>, may_make: bool) -> Option<KeyMaterial> {
    let file = entry.path("file");
    let value = entry.filled_string("value");
    let passphrase_file = entry.path("passphrase_file");
    let given: Vec<_> = SOURCES
        .into_iter()
        .zip([file.is_some(), value.is_some(), passphrase_file.is_some()])
        .filter_map(|(key, given)| given.then_some(key))
        .collect();
    match given.as_slice() {
        [] => {
            let advice = "write { file = \"…\" }, { value = \"…\" } or { passphrase_file = \"…\" }";
            entry.fault("file", "is missing: the key has no source", advice);
        }
        [_] => {}
        [.., last] => {
            let problem = format!("{} are given together", given.join(" and "));
            entry.fault(last, &problem, "keep one of them");
        }
    }
    if let Some((problem, advice)) = value.as_deref().and_then(value_fault) {
        entry.fault("value", problem, advice);
    }
    if let Some(path) = file.as_deref().filter(|_| !may_make) {
        missing_file(&entry, "file", path);
    }
    if let Some(path) = passphrase_file.as_ref().filter(|path| !path.is_file()) {
        let problem = format!("the file {} does not exist", path.display());
        entry.fault("passphrase_file", &problem, "create it, readable by doorward alone");
    }
    entry.finish();
    file.map(KeyMaterial::File)
        .or_else(|| value.map(|value| KeyMaterial::Value(value.into())))
        .or_else(|| passphrase_file.map(KeyMaterial::PassphraseFile))
}

/// What is wrong with an inline key: it must be 32 bytes that somebody drew by lot
/// (security.md CR-07). The text never quotes the key.
fn value_fault(text: &str) -> Option<(&'static str, &'static str)> {
    const ADVICE: &str = "make one: openssl rand -hex 32";
    let text: SecretString = text.trim().into();
    let Some(bytes) = decode(text.expose_secret()) else {
        return Some(("is neither 64 hex digits nor base64", ADVICE));
    };
    if bytes.len() != 32 {
        return Some(("is not exactly 32 bytes long", ADVICE));
    }
    is_weak(&bytes).then_some(("is a key that anybody could guess", ADVICE))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return text
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .find_map(|letters| GeneralPurpose::new(letters, lenient).decode(text).ok())
}

/// Whether 32 bytes follow a pattern that people use in examples: one byte or a short group
/// repeated, counting up or down, or readable text. Random bytes have about 30 distinct
/// values; fewer than 16 are rarer than one in 10¹⁰.
fn is_weak(bytes: &[u8]) -> bool {
    let distinct: std::collections::BTreeSet<u8> = bytes.iter().copied().collect();
    let step = |pair: &[u8]| match pair {
        [a, b] => b.wrapping_sub(*a),
        _ => 0,
    };
    let steps: std::collections::BTreeSet<u8> = bytes.windows(2).map(step).collect();
    let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    distinct.len() < 16 || steps.len() < 4 || is_text
}

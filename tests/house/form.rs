//! Reads the forms of a page as far as our own and a provider's plain pages need it: no scripts, no
//! error recovery.

/// One `<form>` with what it would send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// As written; empty means the page's own address.
    pub action: String,
    /// Lower case: `get` or `post`.
    pub method: String,
    /// Inputs with a name, in order, with their preset values.
    pub fields: Vec<(String, String)>,
    /// Buttons with a name.
    pub buttons: Vec<(String, String)>,
}

/// All forms of this HTML in their order.
pub fn forms(html: &str) -> Vec<Form> {
    let mut found: Vec<Form> = Vec::new();
    let mut open = false;
    for tag in tags(html) {
        let attribute = |name: &str| {
            let known = tag.attributes.iter().find(|(known, _)| known == name);
            known.map(|(_, value)| value.clone())
        };
        match (tag.name.as_str(), found.last_mut()) {
            ("form", _) => {
                open = true;
                found.push(Form {
                    action: attribute("action").unwrap_or_default(),
                    method: attribute("method").unwrap_or("get".into()).to_lowercase(),
                    fields: Vec::new(),
                    buttons: Vec::new(),
                });
            }
            ("/form", _) => open = false,
            ("input" | "button", Some(form)) if open => {
                let Some(name) = attribute("name") else {
                    continue;
                };
                let value = attribute("value");
                let kind = attribute("type").unwrap_or_default().to_lowercase();
                let ticked = attribute("checked").is_some();
                match kind.as_str() {
                    _ if tag.name == "button" => {
                        form.buttons.push((name, value.unwrap_or_default()));
                    }
                    "submit" => form.buttons.push((name, value.unwrap_or_default())),
                    "checkbox" | "radio" if !ticked => {}
                    "checkbox" => form.fields.push((name, value.unwrap_or("on".into()))),
                    _ => form.fields.push((name, value.unwrap_or_default())),
                }
            }
            _ => {}
        }
    }
    found
}

struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

fn tags(html: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let end = tag_end(rest);
        let (inside, after) = rest.split_at(end);
        rest = after;
        let inside = inside.trim_end_matches('/');
        let cut = inside.find(char::is_whitespace).unwrap_or(inside.len());
        tags.push(Tag { name: inside[..cut].to_ascii_lowercase(), attributes: attributes(&inside[cut..]) });
    }
    tags
}

/// Where this tag's `>` stands; one inside quotes does not count.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return at,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn attributes(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let mut value = "";
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            (value, rest) = match after.chars().next() {
                Some(quote @ ('"' | '\'')) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
                _ => after.split_at(after.find(char::is_whitespace).unwrap_or(after.len())),
            };
        }
        if !name.is_empty() {
            found.push((name, unescape(value)));
        }
        rest = rest.trim_start();
    }
    found
}

/// HTML character references that templates write.
pub fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = rest.find(';').and_then(|end| {
            let c = match &rest[1..end] {
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                other => {
                    let number = other.strip_prefix('#')?;
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                        None => number.parse().ok()?,
                    };
                    char::from_u32(code)?
                }
            };
            Some((c, end + 1))
        });
        let (c, used) = known.unwrap_or(('&', 1));
        out.push(c);
        rest = &rest[used..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_with_its_hidden_fields_and_buttons() {
        let html = "<!-- <form> --><form METHOD=post action='/a?b=1&amp;c=2'>\
            <input type=hidden name=\"s\" value=\"x &gt; &quot;y&#x27;\"><input name=user>\
            <input type=checkbox name=no><button name=username value=alice>Alice</button></form>\
            <input name=outside value=1>";
        let expected = Form {
            action: "/a?b=1&c=2".into(),
            method: "post".into(),
            fields: vec![("s".into(), "x > \"y'".into()), ("user".into(), String::new())],
            buttons: vec![("username".into(), "alice".into())],
        };
        assert_eq!(forms(html), [expected]);
    }
}

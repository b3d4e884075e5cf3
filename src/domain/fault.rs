//! What is wrong with one field that a person or program filled in.

/// A fault of one field, as problem details carry it in `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    /// The field's JSON name; a member of an object by a dot (`attributes.plan`).
    pub field: String,
    /// Machine-readable: `required`, `invalid`, `too_short`, `too_long`, `unknown`, `taken` …
    pub code: &'static str,
    /// A sentence for people. It never repeats the value.
    pub detail: String,
}

impl FieldFault {
    #[must_use]
    pub fn new(field: &str, code: &'static str, detail: impl Into<String>) -> Self {
        Self { field: field.to_owned(), code, detail: detail.into() }
    }
}

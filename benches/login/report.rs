//! What was measured, printed as it comes, and which gates were missed.

use std::process::ExitCode;

/// The rows so far.
#[derive(Default)]
pub struct Report {
    missed: Vec<String>,
    doubt: Option<String>,
}

/// A limit that `product.md` or this repository promises; the value must not be above it.
#[derive(Clone, Copy)]
pub struct Gate(pub f64);

impl Report {
    /// A heading over the rows that follow.
    #[expect(clippy::unused_self, reason = "rows and headings belong to the one report")]
    pub fn heading(&self, text: &str) {
        println!("\n{text}");
    }

    /// One row that is only told.
    #[expect(clippy::unused_self, reason = "rows and headings belong to the one report")]
    pub fn tell(&self, what: &str, value: f64, unit: &str) {
        println!("  {what:<56} {value:>9.3} {unit}");
    }

    /// One row with a limit.
    pub fn hold(&mut self, what: &str, value: f64, unit: &str, gate: Gate) {
        let holds = value <= gate.0;
        let verdict = if holds { "holds" } else { "MISSED" };
        println!("  {what:<56} {value:>9.3} {unit}  (gate {} {unit}: {verdict})", gate.0);
        if !holds {
            self.missed.push(what.to_owned());
        }
    }

    /// Why this run can tell nothing about the gates, held or missed.
    pub fn doubt(&mut self, why: String) {
        self.doubt = Some(why);
    }

    /// Status 1 when a gate was missed, 2 when nothing can be said about them.
    pub fn conclude(self) -> ExitCode {
        if let Some(why) = self.doubt {
            println!("\nno conclusion: {why}");
            return ExitCode::from(2);
        }
        if self.missed.is_empty() {
            println!("\nall gates hold");
            return ExitCode::SUCCESS;
        }
        println!("\nmissed: {}", self.missed.join("; "));
        ExitCode::FAILURE
    }
}

/// The value below which `part` (0 to 1) of the values lie; 0 without any.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a place among some thousand values"
    )]
    let place = (values.len().saturating_sub(1) as f64 * part).round() as usize;
    values.get(place).copied().unwrap_or_default()
}

/// The middle value.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

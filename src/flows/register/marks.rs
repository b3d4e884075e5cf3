//! Whether providers keep the marks by which unanswered registrations are decided.

use super::offering;
use crate::app::App;
use crate::error::Result;

/// What is wrong, and what mends it.
pub const UNMARKED: &str = "the realm drops the mark of registrations: whom a call without an answer created cannot be proven, and \
     nothing is taken back; declare the attribute doorward_ref in its user profile, or set unmanagedAttributePolicy to ADMIN_EDIT";

/// Asks each provider at which people register, and warns of those that drop marks: the loss shows only when an answer is lost.
///
/// # Errors
/// A provider's that does not say; the others have been asked all the same.
pub async fn check_marks(app: &App) -> Result<()> {
    let setup = app.setup();
    let mut asked = Ok(());
    for provider in offering(&setup) {
        let Some(directory) = provider.directory() else { continue };
        match directory.keeps_marks().await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(provider = provider.config().id, "{UNMARKED}"),
            Err(error) => asked = Err(error.into()),
        }
    }
    asked
}

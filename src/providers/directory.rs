//! The power over a provider's people: create one, find the one an attempt created, remove them again.
//!
//! Every call that creates leaves the attempt's mark on the person. By it alone a user is known as ours to remove: a name or an address
//! proves nothing, because somebody else may have been faster (security.md RG-03).

use async_trait::async_trait;

use super::ProviderError;
use crate::domain::NewUser;

/// A person whom this very attempt created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedUser {
    /// The provider's own id of them, which will be the `sub` of their tokens.
    pub subject: String,
}

/// Why there is no answer that says "created".
#[derive(Debug, thiserror::Error)]
pub enum NotCreated {
    /// The provider made nobody, for certain.
    #[error(transparent)]
    Refused(ProviderError),
    /// The call may have had its effect: look by the mark before anything else is done (security.md RG-04).
    #[error("whether the user was created is unknown: {0}")]
    Unknown(ProviderError),
}

/// What a look by the mark found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The person carries the mark.
    Ours(CreatedUser),
    /// Nobody of that name, or somebody who carries another mark.
    Nobody,
    /// Somebody of that name without any mark: the provider may not keep marks, or they came before us. Not ours to touch.
    Unproven,
}

/// See the module.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Creates an enabled person with an unconfirmed address.
    ///
    /// # Errors
    /// [`NotCreated`]; `Refused` holds `Taken`, `Rejected`, `PasswordPolicy`, `Misconfigured` or `Unavailable`.
    async fn create_user(&self, user: &NewUser, mark: &str) -> Result<CreatedUser, NotCreated>;

    /// Whom an attempt created, if anybody.
    ///
    /// # Errors
    /// The provider's.
    async fn find_by_mark(&self, mark: &str, username: &str) -> Result<Found, ProviderError>;

    /// Removes a person; one who is gone already is as good.
    ///
    /// # Errors
    /// The provider's; the person may still be there.
    async fn delete_user(&self, subject: &str) -> Result<(), ProviderError>;

    /// Whether a mark on a new person stays there. Where it is dropped, [`Self::find_by_mark`] can prove nothing.
    ///
    /// # Errors
    /// The provider's.
    async fn keeps_marks(&self) -> Result<bool, ProviderError> {
        Ok(true)
    }
}

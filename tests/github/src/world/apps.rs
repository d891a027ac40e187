//! GitHub Apps and where they are installed.

use super::World;
use super::credentials::{Grant, Holder, Issued};
use super::refusal::Refusal;
use super::scope::Scope;

/// An App that may ask for installation tokens.
#[derive(Clone, Debug)]
pub struct App {
    pub id: u64,
    /// The other accepted `iss`.
    pub client_id: String,
    /// PEM, `BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`.
    pub public_key: String,
    /// The most that its tokens may do.
    pub grant: Grant,
}

/// The Apps on an account. Every account that a scope mentions has them installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installation {
    pub(crate) id: u64,
    pub(crate) account: String,
    pub(crate) kind: &'static str,
}

impl World {
    pub(super) fn install_on(&mut self, scope: &Scope) {
        let account = scope.account();
        if self
            .installations
            .iter()
            .any(|known| known.account == account)
        {
            return;
        }
        self.installations.push(Installation {
            id: 1000 + self.installations.len() as u64,
            account: account.to_owned(),
            kind: match scope {
                Scope::Repository { .. } => "User",
                Scope::Organization(_) => "Organization",
                Scope::Enterprise(_) => "Enterprise",
            },
        });
    }

    pub(crate) fn installation_of(&self, scope: &Scope) -> Result<&Installation, Refusal> {
        if !self.scopes.contains_key(scope) {
            return Err(Refusal::not_found());
        }
        self.installations
            .iter()
            .find(|installation| installation.account == scope.account())
            .ok_or_else(Refusal::not_found)
    }

    /// An hour's token for an installation; `wanted` can only take rights away.
    pub(crate) fn installation_token(
        &mut self,
        app: &App,
        installation: u64,
        wanted: &Grant,
    ) -> Result<Issued, Refusal> {
        let account = self
            .installations
            .iter()
            .find(|known| known.id == installation)
            .ok_or_else(Refusal::not_found)?
            .account
            .clone();
        let grant = Grant {
            scopes: wanted.scopes.clone().or_else(|| app.grant.scopes.clone()),
            runners: app.grant.runners && wanted.runners,
            actions: app.grant.actions && wanted.actions,
        };
        Ok(self.issue("ghs_", Holder::Installation { account, grant }, 3600))
    }
}

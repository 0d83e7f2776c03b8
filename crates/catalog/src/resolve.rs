//! From what a caller names to the version that is run.

use std::sync::Arc;

use crate::{
    Catalog, FunctionReference, FunctionVersion, Missing, State, Version, record::FunctionRecord,
};

/// The version that an invocation runs.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// It.
    pub version: Arc<FunctionVersion>,
    /// The alias that led to it.
    pub alias: Option<String>,
    /// The ARN as the caller named it: qualified or not.
    pub invoked_arn: String,
}

/// Why nothing can be invoked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no such function, version or alias.
    #[error("Function not found: {arn}")]
    NotFound {
        /// What was named.
        arn: String,
    },
    /// The version's snapshot is being made.
    #[error(
        "Lambda is initializing your function. It will be ready to invoke once your function state becomes ACTIVE."
    )]
    Pending {
        /// What was named.
        arn: String,
    },
    /// The version's snapshot could not be made.
    #[error("{reason}")]
    Failed {
        /// What was named.
        arn: String,
        /// AWS's `StateReasonCode`.
        code: String,
        /// What went wrong.
        reason: String,
    },
}

impl Catalog {
    /// The version to run for this name. Where an alias spreads its traffic over two versions, one
    /// is drawn. Never waits for the disk.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, reference: &FunctionReference) -> Result<Resolved, ResolveError> {
        // 53 random bits are a number between 0 and 1; a UUID's last 62 are random.
        let (_, bits) = uuid::Uuid::new_v4().as_u64_pair();
        #[expect(clippy::cast_precision_loss, reason = "53 bits are a double's precision")]
        let draw = (bits & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64;
        self.resolve_drawn(reference, draw)
    }

    fn resolve_drawn(
        &self,
        reference: &FunctionReference,
        draw: f64,
    ) -> Result<Resolved, ResolveError> {
        let arn = |missing: Missing| match missing {
            Missing::Function(arn) => ResolveError::NotFound { arn },
            other => ResolveError::NotFound { arn: other.to_string() },
        };
        let record = self.record(reference).map_err(arn)?;
        let qualifier = reference.qualifier.as_deref();
        let alias = qualifier.filter(|qualifier| Version::parse(qualifier).is_none());
        let version = match alias.and_then(|alias| record.aliases.get(alias)) {
            Some(alias) => alias.draw(draw),
            None => record.version_of(self.home(), qualifier).map_err(arn)?,
        };
        let invoked_arn = self.home().function_arn(&record.name, qualifier);
        let Some(version) = self.version(&record, version) else {
            return Err(ResolveError::NotFound { arn: invoked_arn });
        };
        match &version.content.state {
            State::Active => {}
            State::Pending => return Err(ResolveError::Pending { arn: invoked_arn }),
            State::Failed { code, reason } => {
                let (code, reason) = (code.clone(), reason.clone());
                return Err(ResolveError::Failed { arn: invoked_arn, code, reason });
            }
        }
        Ok(Resolved { version: Arc::new(version), alias: alias.map(str::to_owned), invoked_arn })
    }

    /// All versions that there are now of a function; none if it is gone.
    #[must_use]
    pub fn versions_of(&self, function: &str) -> Vec<FunctionVersion> {
        let state = self.state();
        let Some((_, record)) = state.find(function) else { return Vec::new() };
        let record: &FunctionRecord = record;
        record.all_versions().filter_map(|(version, _)| self.version(record, version)).collect()
    }

    /// The names of all functions, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.state().all().into_keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests;

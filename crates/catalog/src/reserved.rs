//! Concurrency that is reserved for functions.

use crate::{Catalog, CatalogError, FunctionReference, Invalid, Violations};

/// What all functions of an account may run at once.
pub(crate) const ACCOUNT_CONCURRENCY: u32 = 1000;

/// What must remain for functions that have nothing reserved.
const UNRESERVED_LEAST: u32 = 100;

impl Catalog {
    /// Reserves concurrency for a function: no more and no fewer of its invocations run at once.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Invalid::Reserved`] where too little remains for the others.
    pub fn reserve_concurrency(
        &self,
        reference: &FunctionReference,
        executions: i64,
    ) -> Result<u32, CatalogError> {
        let mut violations = Violations::new();
        violations.range("reservedConcurrentExecutions", executions, 0, i64::MAX);
        violations.check()?;
        let executions = u32::try_from(executions).map_err(|_| Invalid::Reserved)?;
        self.change(reference, |record| {
            let others = self.all_reserved_concurrency();
            let others = others.iter().filter(|(name, _)| *name != record.name);
            let others = others.fold(0, |sum: u32, (_, reserved)| sum.saturating_add(*reserved));
            if others.saturating_add(executions) > ACCOUNT_CONCURRENCY - UNRESERVED_LEAST {
                return Err(Invalid::Reserved);
            }
            record.reserved = Some(executions);
            Ok(executions)
        })
    }

    /// What is reserved for a function.
    ///
    /// # Errors
    /// [`crate::Missing::Function`].
    pub fn reservation(&self, reference: &FunctionReference) -> Result<Option<u32>, CatalogError> {
        Ok(self.record(reference)?.reserved)
    }

    /// Reserves nothing for a function any more.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unreserve_concurrency(&self, reference: &FunctionReference) -> Result<(), CatalogError> {
        self.change(reference, |record| {
            record.reserved = None;
            Ok::<_, CatalogError>(())
        })
    }
}

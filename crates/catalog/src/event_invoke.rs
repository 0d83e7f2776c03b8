//! How asynchronous invocations are retried, and where their outcomes go.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError, FunctionReference, Invalid, Missing, Page, PageRequest, Violations,
    record::FunctionRecord,
};

/// How asynchronous invocations of a function, a version or an alias are treated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventInvoke {
    /// How often a failed one is tried again, 0 to 2; AWS: 2 where nothing is said.
    pub maximum_retry_attempts: Option<u32>,
    /// For how long it is tried, in seconds, 60 to 21600; AWS: 6 hours where nothing is said.
    pub maximum_event_age: Option<u32>,
    /// Where the records of successes go.
    pub on_success: Option<String>,
    /// Where the records of failures go.
    pub on_failure: Option<String>,
    /// When this was changed last.
    pub last_modified: Timestamp,
}

/// What a request says of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventInvokeChange {
    /// Retries.
    pub maximum_retry_attempts: Option<i64>,
    /// In seconds.
    pub maximum_event_age: Option<i64>,
    /// A function's ARN, or a `file://` or `http://` address; empty for nowhere.
    pub on_success: Option<String>,
    /// The same.
    pub on_failure: Option<String>,
}

/// It with what it is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventInvokeDescription {
    /// The ARN of the function, of the version or of the alias, qualified.
    pub function_arn: String,
    /// What it says.
    pub config: EventInvoke,
}

/// `$LATEST` is what is meant where nothing is said.
fn key(qualifier: Option<&str>) -> String {
    qualifier.filter(|qualifier| *qualifier != "$LATEST").unwrap_or_default().to_owned()
}

impl EventInvokeChange {
    fn check(&self) -> Result<(), CatalogError> {
        let mut violations = Violations::new();
        if let Some(attempts) = self.maximum_retry_attempts {
            violations.range("maximumRetryAttempts", attempts, 0, 2);
        }
        if let Some(age) = self.maximum_event_age {
            violations.range("maximumEventAgeInSeconds", age, 60, 21_600);
        }
        violations.check()?;
        for destination in self.on_success.iter().chain(&self.on_failure) {
            let schemes = ["arn:", "file://", "http://", "https://"];
            let known = schemes.iter().any(|scheme| destination.starts_with(scheme));
            if !destination.is_empty() && !known {
                return Err(Invalid::Destination(destination.clone()).into());
            }
        }
        Ok(())
    }

    fn apply(self, config: &mut EventInvoke) {
        // In bounds, as was checked.
        let number = |value: i64| u32::try_from(value).ok();
        if let Some(attempts) = self.maximum_retry_attempts {
            config.maximum_retry_attempts = number(attempts);
        }
        if let Some(age) = self.maximum_event_age {
            config.maximum_event_age = number(age);
        }
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        if let Some(destination) = self.on_success {
            config.on_success = text(destination);
        }
        if let Some(destination) = self.on_failure {
            config.on_failure = text(destination);
        }
        config.last_modified = Timestamp::now();
    }
}

impl Catalog {
    /// Says how asynchronous invocations are treated, in place of what was said before.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_event_invoke(
        &self,
        reference: &FunctionReference,
        change: EventInvokeChange,
    ) -> Result<EventInvokeDescription, CatalogError> {
        change.check()?;
        if change == EventInvokeChange::default() {
            return Err(Invalid::NoEventInvoke.into());
        }
        let empty = EventInvoke {
            maximum_retry_attempts: None,
            maximum_event_age: None,
            on_success: None,
            on_failure: None,
            last_modified: Timestamp::now(),
        };
        self.change(reference, |record| {
            record.check_qualifier(self.home(), reference.qualifier.as_deref())?;
            let mut config = empty;
            change.apply(&mut config);
            record.event_invoke.insert(key(reference.qualifier.as_deref()), config.clone());
            Ok::<_, CatalogError>(self.describe_event_invoke(record, reference, config))
        })
    }

    /// Changes how asynchronous invocations are treated; what is not said stays.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::EventInvoke`].
    pub fn update_event_invoke(
        &self,
        reference: &FunctionReference,
        change: EventInvokeChange,
    ) -> Result<EventInvokeDescription, CatalogError> {
        change.check()?;
        self.change(reference, |record| {
            let missing = self.no_event_invoke(record, reference);
            let config = record.event_invoke.get_mut(&key(reference.qualifier.as_deref()));
            let config = config.ok_or(missing)?;
            change.apply(config);
            let config = config.clone();
            Ok::<_, CatalogError>(self.describe_event_invoke(record, reference, config))
        })
    }

    /// How asynchronous invocations are treated.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::EventInvoke`].
    pub fn get_event_invoke(
        &self,
        reference: &FunctionReference,
    ) -> Result<EventInvokeDescription, CatalogError> {
        let record = self.record(reference)?;
        let config = record.event_invoke.get(&key(reference.qualifier.as_deref()));
        let config = config.ok_or_else(|| self.no_event_invoke(&record, reference))?;
        Ok(self.describe_event_invoke(&record, reference, config.clone()))
    }

    /// All that is said of a function, its versions and its aliases.
    ///
    /// # Errors
    /// [`Missing::Function`], and as all pages.
    pub fn list_event_invoke(
        &self,
        reference: &FunctionReference,
        page: &PageRequest,
    ) -> Result<Page<EventInvokeDescription>, CatalogError> {
        let record = self.record(reference)?;
        let items = record.event_invoke.iter().map(|(qualifier, config)| {
            let named = Some(qualifier.clone()).filter(|qualifier| !qualifier.is_empty());
            let reference = FunctionReference { qualifier: named, ..reference.clone() };
            (qualifier.clone(), self.describe_event_invoke(&record, &reference, config.clone()))
        });
        page.page("ListFunctionEventInvokeConfigs", 50, items)
    }

    /// Says nothing any more of asynchronous invocations.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::EventInvoke`].
    pub fn delete_event_invoke(&self, reference: &FunctionReference) -> Result<(), CatalogError> {
        self.change(reference, |record| {
            let missing = self.no_event_invoke(record, reference);
            let removed = record.event_invoke.remove(&key(reference.qualifier.as_deref()));
            removed.map(|_| ()).ok_or(missing)
        })
    }

    /// What is said of asynchronous invocations of a function by this qualifier. Never waits for the
    /// disk.
    #[must_use]
    pub fn event_invoke_config(
        &self,
        function: &str,
        qualifier: Option<&str>,
    ) -> Option<EventInvoke> {
        let state = self.state();
        let (_, record) = state.find(function)?;
        record.event_invoke.get(&key(qualifier)).cloned()
    }

    fn event_invoke_arn(&self, record: &FunctionRecord, reference: &FunctionReference) -> String {
        let qualifier = reference.qualifier.as_deref().unwrap_or("$LATEST");
        self.home().function_arn(&record.name, Some(qualifier))
    }

    fn no_event_invoke(&self, record: &FunctionRecord, reference: &FunctionReference) -> Missing {
        Missing::EventInvoke(self.event_invoke_arn(record, reference))
    }

    fn describe_event_invoke(
        &self,
        record: &FunctionRecord,
        reference: &FunctionReference,
        config: EventInvoke,
    ) -> EventInvokeDescription {
        EventInvokeDescription { function_arn: self.event_invoke_arn(record, reference), config }
    }
}

//! Function URLs: web addresses of functions and of aliases.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError, Conflict, FunctionReference, Missing, Page, PageRequest, Version,
    Violations, version::timestamp,
};

/// Who may call a URL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum AuthType {
    /// Anybody.
    #[default]
    #[serde(rename = "NONE")]
    None,
    /// Whoever signs.
    #[serde(rename = "AWS_IAM")]
    AwsIam,
}

/// How a URL answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InvokeMode {
    /// With the whole response.
    #[default]
    Buffered,
    /// With the response as it comes.
    ResponseStream,
}

/// What a URL answers to web pages of other origins.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cors {
    /// `Access-Control-Allow-Credentials`.
    pub allow_credentials: Option<bool>,
    /// `Access-Control-Allow-Headers`.
    pub allow_headers: Option<Vec<String>>,
    /// `Access-Control-Allow-Methods`.
    pub allow_methods: Option<Vec<String>>,
    /// `Access-Control-Allow-Origin`.
    pub allow_origins: Option<Vec<String>>,
    /// `Access-Control-Expose-Headers`.
    pub expose_headers: Option<Vec<String>>,
    /// `Access-Control-Max-Age`, in seconds, up to 86400.
    pub max_age: Option<i64>,
}

/// A function URL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UrlConfig {
    /// Its host name's first label: 32 lower-case letters and digits.
    pub id: String,
    /// Who may call it.
    pub auth_type: AuthType,
    /// What it answers to web pages.
    pub cors: Option<Cors>,
    /// How it answers.
    pub invoke_mode: InvokeMode,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub last_modified: Timestamp,
}

/// What a request says of a URL; what it does not say stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UrlChange {
    /// Who may call it.
    pub auth_type: Option<AuthType>,
    /// All of what it answers to web pages; empty for nothing.
    pub cors: Option<Cors>,
    /// How it answers.
    pub invoke_mode: Option<InvokeMode>,
}

/// A function URL with what it is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlDescription {
    /// The ARN of the function or of the alias.
    pub function_arn: String,
    /// What it is.
    pub url: UrlConfig,
}

impl UrlConfig {
    /// When it was made, as Lambda writes it.
    #[must_use]
    pub fn created_text(&self) -> String {
        timestamp(self.created)
    }

    /// When it was changed last, as Lambda writes it.
    #[must_use]
    pub fn last_modified_text(&self) -> String {
        timestamp(self.last_modified)
    }
}

/// A URL as AWS makes it if nothing is said of it.
pub(crate) fn new_url() -> UrlConfig {
    let now = Timestamp::now();
    UrlConfig {
        id: uuid::Uuid::new_v4().simple().to_string(),
        auth_type: AuthType::default(),
        cors: None,
        invoke_mode: InvokeMode::default(),
        created: now,
        last_modified: now,
    }
}

impl UrlChange {
    pub(crate) fn apply(self, url: &mut UrlConfig) {
        if let Some(auth_type) = self.auth_type {
            url.auth_type = auth_type;
        }
        if let Some(cors) = self.cors {
            url.cors = Some(cors).filter(|cors| *cors != Cors::default());
        }
        if let Some(invoke_mode) = self.invoke_mode {
            url.invoke_mode = invoke_mode;
        }
    }

    fn check(&self) -> Result<(), Violations> {
        let mut violations = Violations::new();
        if let Some(cors) = &self.cors {
            violations.range("cors.maxAge", cors.max_age.unwrap_or(0), 0, 86_400);
            for method in cors.allow_methods.iter().flatten() {
                violations.length("cors.allowMethods", method, 0, 6);
            }
        }
        violations.check()
    }
}

/// The alias that a URL is of; none for the function itself.
fn alias(reference: &FunctionReference) -> Result<&str, CatalogError> {
    let qualifier = reference.qualifier.as_deref().unwrap_or_default();
    if Version::parse(qualifier).is_some() && !qualifier.is_empty() {
        let constraint = r"satisfy regular expression pattern: ((?!^\d+$)^[0-9a-zA-Z-_]+$)";
        return Err(Violations::one("qualifier", qualifier, constraint).into());
    }
    Ok(qualifier)
}

impl Catalog {
    /// Gives a function or an alias a URL.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Conflict::Url`].
    pub fn create_url(
        &self,
        reference: &FunctionReference,
        change: UrlChange,
    ) -> Result<UrlDescription, CatalogError> {
        let key = alias(reference)?;
        change.check()?;
        self.change(reference, |record| {
            record.check_qualifier(self.home(), reference.qualifier.as_deref())?;
            let function_arn =
                self.home().function_arn(&record.name, reference.qualifier.as_deref());
            if record.urls.contains_key(key) {
                return Err(Conflict::Url(function_arn).into());
            }
            let mut url = new_url();
            change.apply(&mut url);
            record.urls.insert(key.to_owned(), url.clone());
            Ok::<_, CatalogError>(UrlDescription { function_arn, url })
        })
    }

    /// Changes a URL.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Resource`].
    pub fn update_url(
        &self,
        reference: &FunctionReference,
        change: UrlChange,
    ) -> Result<UrlDescription, CatalogError> {
        let key = alias(reference)?;
        change.check()?;
        self.change(reference, |record| {
            let function_arn =
                self.home().function_arn(&record.name, reference.qualifier.as_deref());
            let url = record.urls.get_mut(key).ok_or(Missing::Resource)?;
            change.apply(url);
            url.last_modified = Timestamp::now();
            Ok::<_, CatalogError>(UrlDescription { function_arn, url: url.clone() })
        })
    }

    /// The URL of a function or of an alias.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Resource`].
    pub fn get_url(&self, reference: &FunctionReference) -> Result<UrlDescription, CatalogError> {
        let key = alias(reference)?;
        let record = self.record(reference)?;
        let url = record.urls.get(key).ok_or(Missing::Resource)?.clone();
        let function_arn = self.home().function_arn(&record.name, reference.qualifier.as_deref());
        Ok(UrlDescription { function_arn, url })
    }

    /// All URLs of a function and of its aliases.
    ///
    /// # Errors
    /// [`Missing::Function`], and as all pages.
    pub fn list_urls(
        &self,
        reference: &FunctionReference,
        page: &PageRequest,
    ) -> Result<Page<UrlDescription>, CatalogError> {
        let record = self.record(reference)?;
        let items = record.urls.iter().map(|(alias, url)| {
            let qualifier = Some(alias.as_str()).filter(|alias| !alias.is_empty());
            let function_arn = self.home().function_arn(&record.name, qualifier);
            (alias.clone(), UrlDescription { function_arn, url: url.clone() })
        });
        page.page("ListFunctionUrlConfigs", 50, items)
    }

    /// Takes the URL from a function or from an alias.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Resource`].
    pub fn delete_url(&self, reference: &FunctionReference) -> Result<(), CatalogError> {
        let key = alias(reference)?;
        self.change(reference, |record| {
            record.urls.remove(key).map(|_| ()).ok_or(Missing::Resource)
        })
    }

    /// What is called by the URL of this id. Never waits for the disk.
    #[must_use]
    pub fn function_url(&self, id: &str) -> Option<(FunctionReference, UrlConfig)> {
        let state = self.state();
        let name = state.urls.get(id)?;
        let (_, record) = state.find(name)?;
        let (alias, url) = record.urls.iter().find(|(_, url)| url.id == id)?;
        let qualifier = Some(alias.clone()).filter(|alias| !alias.is_empty());
        let reference = FunctionReference { qualifier, ..FunctionReference::of_name(&**name) };
        Some((reference, url.clone()))
    }
}

//! Resource policies: who may do what with a function or a layer. They are kept and told, not
//! enforced: whoever reaches the server may call.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Catalog, CatalogError, Conflict, FunctionReference, Invalid, Missing, Violations,
    reference::is_account, version::new_revision,
};

/// What a policy may have, in bytes.
const POLICY_LIMIT: usize = 20_480;

/// A request to add a statement to a policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Permission {
    /// The statement's name.
    pub statement_id: String,
    /// Such as `lambda:InvokeFunction`.
    pub action: String,
    /// A service, an account, an ARN, or `*`.
    pub principal: String,
    /// For calls in the name of this resource.
    pub source_arn: Option<String>,
    /// For calls in the name of this account's resources.
    pub source_account: Option<String>,
    /// For calls with this token.
    pub event_source_token: Option<String>,
    /// For members of this organization.
    pub principal_org_id: Option<String>,
    /// For calls of a function URL of this type.
    pub function_url_auth_type: Option<String>,
    /// For calls by way of a function URL.
    pub invoked_via_function_url: Option<bool>,
    /// What the caller believes the policy's revision to be.
    pub revision_id: Option<String>,
}

/// A policy as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyDocument {
    /// JSON.
    pub document: String,
    /// A new one for each change: a UUID.
    pub revision_id: String,
}

/// Statements in the order in which they were added.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) statements: Vec<Value>,
    pub(crate) revision_id: String,
}

impl Policy {
    pub(crate) fn document(&self) -> PolicyDocument {
        let document =
            json!({ "Version": "2012-10-17", "Id": "default", "Statement": self.statements });
        PolicyDocument { document: document.to_string(), revision_id: self.revision_id.clone() }
    }

    fn check_revision(&self, given: Option<&str>, call: &'static str) -> Result<(), CatalogError> {
        match given {
            Some(given) if given != self.revision_id => Err(CatalogError::Revision { call }),
            _ => Ok(()),
        }
    }

    /// Adds a statement about a resource. Returns it, as JSON.
    pub(crate) fn add(
        &mut self,
        permission: &Permission,
        resource: &str,
        call: &'static str,
    ) -> Result<String, CatalogError> {
        permission.check()?;
        self.check_revision(permission.revision_id.as_deref(), call)?;
        let id = &permission.statement_id;
        if self.statements.iter().any(|statement| statement["Sid"] == **id) {
            return Err(Conflict::Statement(id.clone()).into());
        }
        let statement = permission.statement(resource)?;
        let text = statement.to_string();
        self.statements.push(statement);
        self.revision_id = new_revision();
        self.check_length()?;
        Ok(text)
    }

    fn check_length(&self) -> Result<(), CatalogError> {
        let size = self.document().document.len();
        if size > POLICY_LIMIT { Err(CatalogError::PolicyLength { size }) } else { Ok(()) }
    }

    /// Removes a statement.
    pub(crate) fn remove(
        &mut self,
        id: &str,
        revision_id: Option<&str>,
        call: &'static str,
    ) -> Result<(), CatalogError> {
        self.check_revision(revision_id, call)?;
        let before = self.statements.len();
        self.statements.retain(|statement| statement["Sid"] != *id);
        if self.statements.len() == before {
            return Err(Missing::Statement(id.to_owned()).into());
        }
        self.revision_id = new_revision();
        Ok(())
    }
}

impl Permission {
    fn check(&self) -> Result<(), Violations> {
        let mut violations = Violations::new();
        let id = &self.statement_id;
        violations.pattern("statementId", id, crate::reference::is_name(id), "([a-zA-Z0-9-_]+)");
        violations.length("statementId", id, 1, 100);
        let action = self.action.strip_prefix("lambda:").unwrap_or_default();
        let fits = self.action == "*"
            || action == "*"
            || (!action.is_empty() && action.bytes().all(|byte| byte.is_ascii_alphabetic()));
        violations.pattern("action", &self.action, fits, "(lambda:[*]|lambda:[a-zA-Z]+|[*])");
        let fits = !self.principal.is_empty() && !self.principal.contains(char::is_whitespace);
        violations.pattern("principal", &self.principal, fits, r"[^\s]+");
        if let Some(account) = &self.source_account {
            violations.pattern("sourceAccount", account, is_account(account), r"\d{12}");
        }
        if let Some(kind) = &self.function_url_auth_type {
            violations.one_of("functionUrlAuthType", kind, &["NONE", "AWS_IAM"]);
        }
        violations.check()
    }

    fn statement(&self, resource: &str) -> Result<Value, Invalid> {
        let principal = match &*self.principal {
            "*" => json!("*"),
            account if is_account(account) => {
                json!({ "AWS": format!("arn:aws:iam::{account}:root") })
            }
            arn if arn.starts_with("arn:") => json!({ "AWS": arn }),
            service if service.contains('.') => json!({ "Service": service }),
            other => return Err(Invalid::Principal(other.to_owned())),
        };
        let mut equal = Map::new();
        let mut set = |key: &str, value: &Option<String>| {
            if let Some(value) = value {
                equal.insert(key.to_owned(), value.as_str().into());
            }
        };
        set("AWS:SourceAccount", &self.source_account);
        set("lambda:EventSourceToken", &self.event_source_token);
        set("lambda:FunctionUrlAuthType", &self.function_url_auth_type);
        set("aws:PrincipalOrgID", &self.principal_org_id);
        let mut condition = Map::new();
        if !equal.is_empty() {
            condition.insert("StringEquals".to_owned(), equal.into());
        }
        if let Some(arn) = &self.source_arn {
            condition.insert("ArnLike".to_owned(), json!({ "AWS:SourceArn": arn }));
        }
        if let Some(via) = self.invoked_via_function_url {
            let via = via.to_string();
            condition.insert("Bool".to_owned(), json!({ "lambda:InvokedViaFunctionUrl": via }));
        }
        let mut statement = json!({
            "Sid": self.statement_id,
            "Effect": "Allow",
            "Principal": principal,
            "Action": self.action,
            "Resource": resource,
        });
        if !condition.is_empty() {
            statement["Condition"] = condition.into();
        }
        Ok(statement)
    }
}

const CALL: &str = "GetPolicy";

impl Catalog {
    /// Adds a statement to the policy of a function, a version or an alias. Returns it, as JSON.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn add_permission(
        &self,
        reference: &FunctionReference,
        permission: &Permission,
    ) -> Result<String, CatalogError> {
        let qualifier = reference.qualifier.as_deref();
        self.change(reference, |record| {
            record.check_qualifier(self.home(), qualifier)?;
            let resource = self.home().function_arn(&record.name, qualifier);
            let policy = record.policies.entry(qualifier.unwrap_or_default().to_owned());
            policy.or_default().add(permission, &resource, CALL)
        })
    }

    /// The policy of a function, a version or an alias.
    ///
    /// # Errors
    /// [`Missing::Function`]; [`Missing::Resource`] where nothing was allowed.
    pub fn policy(&self, reference: &FunctionReference) -> Result<PolicyDocument, CatalogError> {
        let record = self.record(reference)?;
        record.check_qualifier(self.home(), reference.qualifier.as_deref())?;
        let policy = record.policies.get(reference.qualifier.as_deref().unwrap_or_default());
        Ok(policy.ok_or(Missing::Resource)?.document())
    }

    /// Removes a statement.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Statement`].
    pub fn remove_permission(
        &self,
        reference: &FunctionReference,
        statement_id: &str,
        revision_id: Option<&str>,
    ) -> Result<(), CatalogError> {
        let qualifier = reference.qualifier.as_deref();
        self.change(reference, |record| {
            record.check_qualifier(self.home(), qualifier)?;
            let key = qualifier.unwrap_or_default();
            let policy = record.policies.get_mut(key).ok_or(Missing::Policy)?;
            policy.remove(statement_id, revision_id, CALL)?;
            if policy.statements.is_empty() {
                record.policies.remove(key);
            }
            Ok::<_, CatalogError>(())
        })
    }

    /// Puts a document in the place of a policy.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Violations`] where it is no policy.
    pub fn replace_policy(
        &self,
        reference: &FunctionReference,
        document: &str,
        revision_id: Option<&str>,
    ) -> Result<PolicyDocument, CatalogError> {
        let statements = match serde_json::from_str(document) {
            Ok(Value::Object(mut policy)) => match policy.remove("Statement") {
                Some(Value::Array(statements)) if !statements.is_empty() => statements,
                Some(statement @ Value::Object(_)) => vec![statement],
                _ => return Err(Violations::one("policy", document, "be a policy document").into()),
            },
            _ => return Err(Violations::one("policy", document, "be a policy document").into()),
        };
        let qualifier = reference.qualifier.as_deref();
        self.change(reference, |record| {
            record.check_qualifier(self.home(), qualifier)?;
            let policy =
                record.policies.entry(qualifier.unwrap_or_default().to_owned()).or_default();
            policy.check_revision(revision_id, "GetResourcePolicy")?;
            *policy = Policy { statements, revision_id: new_revision() };
            policy.check_length()?;
            Ok::<_, CatalogError>(policy.document())
        })
    }

    /// Removes a policy as a whole.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Resource`] where there is none.
    pub fn delete_policy(
        &self,
        reference: &FunctionReference,
        revision_id: Option<&str>,
    ) -> Result<(), CatalogError> {
        let key = reference.qualifier.as_deref().unwrap_or_default();
        self.change(reference, |record| {
            let policy = record.policies.get(key).ok_or(Missing::Resource)?;
            policy.check_revision(revision_id, "GetResourcePolicy")?;
            record.policies.remove(key);
            Ok::<_, CatalogError>(())
        })
    }
}

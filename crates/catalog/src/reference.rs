//! How callers name a function: by name, or by a partial or full ARN, with a qualifier or without.

use std::str::FromStr;

/// A function as a caller names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionReference {
    /// The account, where it is named: 12 digits.
    pub account_id: Option<String>,
    /// The region, where it is named.
    pub region: Option<String>,
    /// The function's name: 1 to 64 ASCII letters, digits, `-` and `_`.
    pub name: String,
    /// A version's number, `$LATEST`, or an alias.
    pub qualifier: Option<String>,
}

/// A text that names no function.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReferenceError {
    /// It is of none of the forms.
    #[error(
        "1 validation error detected: Value '{0}' at 'functionName' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: {FUNCTION_PATTERN}"
    )]
    Form(String),
    /// The qualifier is none.
    #[error(
        "1 validation error detected: Value '{0}' at 'qualifier' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: {QUALIFIER_PATTERN}"
    )]
    Qualifier(String),
    /// The name has more than 64 characters.
    #[error(
        "1 validation error detected: Value '{0}' at 'functionName' failed to satisfy constraint: \
         Member must have length less than or equal to 64"
    )]
    Length(String),
    /// It is qualified twice, differently.
    #[error("The derived qualifier from the function name does not match the specified qualifier.")]
    TwoQualifiers,
}

/// AWS's pattern of what names a function, as its messages quote it.
pub(crate) const FUNCTION_PATTERN: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?";

const QUALIFIER_PATTERN: &str = r"(|[a-zA-Z0-9$_-]+)";

impl FunctionReference {
    /// A function of this account and region, by its name alone.
    #[must_use]
    pub fn of_name(name: impl Into<String>) -> Self {
        Self { account_id: None, region: None, name: name.into(), qualifier: None }
    }

    /// The same with the qualifier that stands beside it in a request.
    ///
    /// # Errors
    /// [`ReferenceError::TwoQualifiers`] if it has another already, [`ReferenceError::Qualifier`].
    pub fn qualified(mut self, qualifier: Option<&str>) -> Result<Self, ReferenceError> {
        match (qualifier.filter(|qualifier| !qualifier.is_empty()), &self.qualifier) {
            (Some(given), _) if !is_qualifier(given) => {
                Err(ReferenceError::Qualifier(given.to_owned()))
            }
            (Some(given), Some(own)) if given != own => Err(ReferenceError::TwoQualifiers),
            (Some(given), None) => {
                self.qualifier = Some(given.to_owned());
                Ok(self)
            }
            _ => Ok(self),
        }
    }
}

impl FromStr for FunctionReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let form = || ReferenceError::Form(text.to_owned());
        let mut rest: Vec<&str> = text.split(':').collect();
        if let ["arn", partition, "lambda", ..] = rest[..] {
            if !partition.starts_with("aws") {
                return Err(form());
            }
            rest.drain(..3);
            if rest.len() < 4 {
                return Err(form());
            }
        }
        let mut region = None;
        if rest.len() > 1 && is_region(rest[0]) {
            region = Some(rest.remove(0).to_owned());
        }
        let mut account_id = None;
        // A function may be named by twelve digits, too, but not an account by a function's name.
        if rest.len() > 1 && is_account(rest[0]) && (rest[1] == "function" || region.is_some()) {
            account_id = Some(rest.remove(0).to_owned());
        }
        if rest.len() > 1 && rest[0] == "function" {
            rest.remove(0);
        }
        let (name, qualifier) = match rest[..] {
            [name] => (name, None),
            [name, qualifier] if is_qualifier(qualifier) => (name, Some(qualifier.to_owned())),
            _ => return Err(form()),
        };
        if !is_name(name) {
            return Err(form());
        }
        if name.len() > 64 {
            return Err(ReferenceError::Length(name.to_owned()));
        }
        Ok(Self { account_id, region, name: name.to_owned(), qualifier })
    }
}

/// Whether a text has only what the names of functions, layers and aliases have.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Whether a text is a version or can name an alias.
pub(crate) fn is_qualifier(text: &str) -> bool {
    text == "$LATEST" || (is_name(text) && text.len() <= 128)
}

pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `us-east-1`, `us-gov-west-1`, `cn-north-1`.
pub(crate) fn is_region(text: &str) -> bool {
    let mut parts = text.split('-');
    let ends_in_number = text
        .rsplit('-')
        .next()
        .is_some_and(|number| number.len() == 1 && number.as_bytes()[0].is_ascii_digit());
    ends_in_number
        && parts.next().is_some_and(|first| first.len() == 2)
        && (3..=4).contains(&text.split('-').count())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> FunctionReference {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn functions_are_named_in_every_form_of_awss() {
        let plain = FunctionReference::of_name("f_1-x");
        assert_eq!(parse("f_1-x"), plain);
        assert_eq!(parse("function:f_1-x"), plain);
        let live = plain.clone().qualified(Some("live")).unwrap();
        assert_eq!(parse("f_1-x:live"), live);
        assert_eq!(parse("function:f_1-x:live"), live);
        let account = FunctionReference { account_id: Some("123456789012".into()), ..live.clone() };
        assert_eq!(parse("123456789012:function:f_1-x:live"), account);
        let full = FunctionReference { region: Some("us-gov-west-1".into()), ..account };
        assert_eq!(
            parse("arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:f_1-x:live"),
            full
        );
        assert_eq!(parse("us-gov-west-1:123456789012:function:f_1-x:live"), full);
        assert_eq!(parse("123456789012").name, "123456789012");
        assert_eq!(parse("123456789012:live").qualifier.as_deref(), Some("live"));
        assert_eq!(parse("function").name, "function");
        assert_eq!(parse("f:$LATEST").qualifier.as_deref(), Some("$LATEST"));
    }

    #[test]
    fn other_texts_name_none() {
        let long = "f".repeat(65);
        for text in [
            "",
            ":",
            "f:",
            "f:a:b",
            "f g",
            "f.g",
            "f:$latest",
            "é",
            "a/b",
            "..",
            &long,
            "arn:aws:lambda:f",
            "arn:aws:s3:us-east-1:123456789012:function:f",
            "arn:evil:lambda:us-east-1:123456789012:function:f",
            "arn:aws:lambda:us-east-1:123456789012:function:f:live:x",
        ] {
            assert!(text.parse::<FunctionReference>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_qualifier_is_given_once_or_twice_alike() {
        assert_eq!(parse("f:1").qualified(Some("1")), Ok(parse("f:1")));
        assert_eq!(parse("f:1").qualified(None), Ok(parse("f:1")));
        assert_eq!(parse("f").qualified(Some("")), Ok(parse("f")));
        assert_eq!(parse("f:1").qualified(Some("2")), Err(ReferenceError::TwoQualifiers));
        assert!(matches!(parse("f").qualified(Some("a b")), Err(ReferenceError::Qualifier(_))));
    }
}

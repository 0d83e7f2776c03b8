//! What is wrong with a request's members, all of it at once, in AWS's words.

use std::fmt;

/// A member of a request that is out of its bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its value, as it was given; none where it is missing.
    pub value: Option<String>,
    /// Its path, such as `memorySize`.
    pub member: String,
    /// What it has to satisfy.
    pub constraint: String,
}

/// All violations of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Violations(Vec<Violation>);

impl std::error::Error for Violations {}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} validation error{plural} detected: ", self.0.len())?;
        for (index, violation) in self.0.iter().enumerate() {
            let Violation { value, member, constraint } = violation;
            let separator = if index == 0 { "" } else { "; " };
            let value = value.as_ref().map_or("null".to_owned(), |value| format!("'{value}'"));
            write!(
                f,
                "{separator}Value {value} at '{member}' failed to satisfy constraint: Member must \
                 {constraint}"
            )?;
        }
        Ok(())
    }
}

impl Violations {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of a request that has one.
    #[must_use]
    pub fn one(member: &str, value: &str, constraint: &str) -> Self {
        let mut violations = Self::new();
        violations.add(member, value, constraint);
        violations
    }

    /// Notes one; `constraint` goes on after "Member must ".
    pub fn add(&mut self, member: &str, value: impl fmt::Display, constraint: impl Into<String>) {
        self.0.push(Violation {
            value: Some(value.to_string()),
            member: member.to_owned(),
            constraint: constraint.into(),
        });
    }

    /// A member that has to be there.
    pub fn required<T>(&mut self, member: &str, value: Option<&T>) {
        if value.is_none() {
            self.0.push(Violation {
                value: None,
                member: member.to_owned(),
                constraint: "not be null".to_owned(),
            });
        }
    }

    /// A number between two others.
    pub fn range(&mut self, member: &str, value: i64, least: i64, most: i64) {
        if value < least {
            self.add(member, value, format!("have value greater than or equal to {least}"));
        } else if value > most {
            self.add(member, value, format!("have value less than or equal to {most}"));
        }
    }

    /// A text's length, in characters.
    pub fn length(&mut self, member: &str, value: &str, least: usize, most: usize) {
        let length = value.chars().count();
        if length < least {
            self.add(member, value, format!("have length greater than or equal to {least}"));
        } else if length > most {
            self.add(member, value, format!("have length less than or equal to {most}"));
        }
    }

    /// A text's form.
    pub fn pattern(&mut self, member: &str, value: &str, fits: bool, pattern: &str) {
        if !fits {
            self.add(member, value, format!("satisfy regular expression pattern: {pattern}"));
        }
    }

    /// One value of several.
    pub fn one_of(&mut self, member: &str, value: &str, values: &[&str]) {
        if !values.contains(&value) {
            self.add(member, value, format!("satisfy enum value set: [{}]", values.join(", ")));
        }
    }

    /// An error, if there is any.
    ///
    /// # Errors
    /// These violations.
    pub fn check(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_told_at_once() {
        let mut violations = Violations::new();
        violations.range("timeout", 3, 1, 900);
        violations.length("description", "x", 0, 256);
        assert_eq!(violations.clone().check(), Ok(()));
        violations.range("timeout", 0, 1, 900);
        violations.one_of("packageType", "Tar", &["Zip", "Image"]);
        assert_eq!(
            violations.check().unwrap_err().to_string(),
            "2 validation errors detected: Value '0' at 'timeout' failed to satisfy constraint: \
             Member must have value greater than or equal to 1; Value 'Tar' at 'packageType' \
             failed to satisfy constraint: Member must satisfy enum value set: [Zip, Image]"
        );
    }
}

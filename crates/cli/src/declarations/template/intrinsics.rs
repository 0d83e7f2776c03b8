//! CloudFormation's intrinsic functions, as far as they have a meaning on one machine.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Note,
    node::{Node, TemplateError, Value},
};

/// What a template's functions refer to.
pub(crate) struct Scope<'a> {
    pub(crate) account_id: &'a str,
    pub(crate) region: &'a str,
    /// Given on the command line.
    pub(crate) given: &'a BTreeMap<String, String>,
    parameters: &'a [(String, Node)],
    mappings: Option<&'a Node>,
    conditions: &'a [(String, Node)],
    resources: &'a [(String, Node)],
    /// What is computed at the moment, so that a circle ends.
    pending: RefCell<BTreeSet<String>>,
    notes: RefCell<Vec<Note>>,
}

type Evaluated = Result<Node, TemplateError>;

impl<'a> Scope<'a> {
    pub(crate) fn new(
        template: &'a Node,
        given: &'a BTreeMap<String, String>,
        (account_id, region): (&'a str, &'a str),
    ) -> Self {
        let section = |name| template.get(name).map(Node::entries).unwrap_or_default();
        Self {
            account_id,
            region,
            given,
            parameters: section("Parameters"),
            mappings: template.get("Mappings"),
            conditions: section("Conditions"),
            resources: section("Resources"),
            pending: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.parameters.iter().map(|(name, _)| name.as_str())
    }

    /// Says something about the template that is no reason not to serve it.
    pub(crate) fn note(&self, line: usize, text: impl Into<String>) {
        let note = Note { line, text: text.into() };
        let mut notes = self.notes.borrow_mut();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(crate) fn into_notes(self) -> Vec<Note> {
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|note| note.line);
        notes
    }

    /// The name that a function has, by its name in the template.
    pub(crate) fn function_name(&self, id: &str) -> Result<Option<String>, TemplateError> {
        let Some((_, resource)) = self.resources.iter().find(|(name, _)| name == id) else {
            return Ok(None);
        };
        let kind = resource.get("Type").and_then(Node::text).unwrap_or_default();
        if !matches!(kind, "AWS::Serverless::Function" | "AWS::Lambda::Function") {
            return Ok(None);
        }
        match resource.get("Properties").and_then(|properties| properties.get("FunctionName")) {
            None => Ok(Some(id.to_owned())),
            Some(name) => Ok(Some(match self.evaluate(name)? {
                Node { value: Value::Null, .. } => id.to_owned(),
                name => text(&name, "FunctionName")?.to_owned(),
            })),
        }
    }

    /// The ARN of a function of this machine.
    pub(crate) fn function_arn(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:function:{name}", self.region, self.account_id)
    }

    /// Computes what a part of the template stands for: no function is left in it.
    pub(crate) fn evaluate(&self, node: &Node) -> Evaluated {
        let value = match &node.value {
            Value::Null | Value::Scalar(_) => node.value.clone(),
            Value::Sequence(items) => Value::Sequence(
                items
                    .iter()
                    .map(|item| self.evaluate(item))
                    .filter(|item| !matches!(item, Ok(Node { value: Value::Null, .. })))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Mapping(entries) => {
                let mut evaluated = Vec::with_capacity(entries.len());
                for (name, value) in entries {
                    evaluated.push((name.clone(), self.evaluate(value)?));
                }
                Value::Mapping(evaluated)
            }
            Value::Call(name, argument) => {
                return self
                    .call(name, argument, node.line)
                    .map(|value| Node { line: node.line, ..value });
            }
        };
        Ok(Node { line: node.line, value })
    }

    fn call(&self, name: &str, argument: &Node, line: usize) -> Evaluated {
        match name {
            "Ref" => self.reference(text(argument, "Ref")?, line),
            "Fn::Sub" => self.substitute(argument, line),
            "Fn::GetAtt" => self.attribute(argument, line),
            "Fn::If" => match list(argument, name)? {
                [condition, then, otherwise] => {
                    let holds = self.condition(text(condition, name)?, line)?;
                    self.evaluate(if holds { then } else { otherwise })
                }
                _ => Err(TemplateError::new(line, "Fn::If takes a condition and two values")),
            },
            "Fn::Join" => {
                let (separator, items) = self.pair(argument, name, line)?;
                let items = list(&items, name)?;
                let items: Vec<&str> =
                    items.iter().map(|item| text(item, name)).collect::<Result<_, _>>()?;
                Ok(Node::scalar(line, items.join(text(&separator, name)?)))
            }
            "Fn::Split" => {
                let (separator, whole) = self.pair(argument, name, line)?;
                let (separator, whole) = (text(&separator, name)?, text(&whole, name)?);
                let parts = whole.split(separator).map(|part| Node::scalar(line, part));
                Ok(Node::new(line, Value::Sequence(parts.collect())))
            }
            "Fn::Select" => {
                let (index, items) = self.pair(argument, name, line)?;
                let items = list(&items, name)?;
                let index = text(&index, name)?;
                index.parse().ok().and_then(|index: usize| items.get(index).cloned()).ok_or_else(
                    || {
                        let count = items.len();
                        TemplateError::new(
                            line,
                            format!("Fn::Select: there is no item {index} among {count}"),
                        )
                    },
                )
            }
            "Fn::FindInMap" => self.find_in_map(argument, line),
            "Fn::Base64" => {
                use base64::{Engine as _, prelude::BASE64_STANDARD};
                let plain = self.evaluate(argument)?;
                Ok(Node::scalar(line, BASE64_STANDARD.encode(text(&plain, name)?)))
            }
            "Condition" | "Fn::Equals" | "Fn::And" | "Fn::Or" | "Fn::Not" => {
                let node =
                    Node::new(line, Value::Call(name.to_owned(), Box::new(argument.clone())));
                Ok(Node::scalar(line, self.holds(&node)?.to_string()))
            }
            _ => Err(TemplateError::not_here(line, format!("{name} is not supported here"))),
        }
    }

    /// The two parts of a function's argument, computed.
    fn pair(
        &self,
        argument: &Node,
        name: &str,
        line: usize,
    ) -> Result<(Node, Node), TemplateError> {
        match list(argument, name)? {
            [first, second] => Ok((self.evaluate(first)?, self.evaluate(second)?)),
            other => {
                let count = other.len();
                Err(TemplateError::new(line, format!("{name} takes a list of 2, not of {count}")))
            }
        }
    }

    fn reference(&self, name: &str, line: usize) -> Evaluated {
        let pseudo = match name {
            "AWS::Region" => self.region,
            "AWS::AccountId" => self.account_id,
            "AWS::Partition" => "aws",
            "AWS::URLSuffix" => "amazonaws.com",
            "AWS::StackName" => "costrel",
            "AWS::StackId" => {
                let (region, account) = (self.region, self.account_id);
                let arn = format!("arn:aws:cloudformation:{region}:{account}:stack/costrel/0");
                return Ok(Node::scalar(line, arn));
            }
            "AWS::NoValue" => return Ok(Node::new(line, Value::Null)),
            "AWS::NotificationARNs" => return Ok(Node::new(line, Value::Sequence(vec![]))),
            _ if name.starts_with("AWS::") => {
                return Err(TemplateError::new(line, format!("there is no {name}")));
            }
            _ => "",
        };
        if !pseudo.is_empty() {
            return Ok(Node::scalar(line, pseudo));
        }
        if let Some((_, parameter)) = self.parameters.iter().find(|(id, _)| id == name) {
            return self.parameter(name, parameter, line);
        }
        if let Some(function) = self.guarded(name, line, || self.function_name(name))? {
            return Ok(Node::scalar(line, function));
        }
        match self.resources.iter().find(|(id, _)| id == name) {
            Some((_, resource)) => {
                let kind = resource.get("Type").and_then(Node::text).unwrap_or("a resource");
                // A layer's place is looked up by its name.
                if !kind.ends_with("::LayerVersion") {
                    self.note(
                        line,
                        format!("{name} ({kind}) is not made here: its name stands for it"),
                    );
                }
                Ok(Node::scalar(line, name))
            }
            None => Err(TemplateError::new(
                line,
                format!("{name} is neither a parameter nor a resource of this template"),
            )),
        }
    }

    fn parameter(&self, name: &str, parameter: &Node, line: usize) -> Evaluated {
        let kind = parameter.get("Type").and_then(Node::text).unwrap_or("String");
        let default = parameter.get("Default").and_then(Node::text);
        let given = self.given.get(name).map(String::as_str);
        let Some(value) = given.or(default) else {
            return Err(TemplateError::new(
                line,
                format!("the parameter {name} has no default: give --parameter {name}=VALUE"),
            ));
        };
        if kind.starts_with("AWS::SSM::") && given.is_none() {
            self.note(line, format!(
                "{name} ({kind}) is not looked up here: --parameter {name}=VALUE gives it another value than {value:?}"
            ));
        }
        if let Some(Node { value: Value::Sequence(allowed), .. }) = parameter.get("AllowedValues")
            && !allowed.iter().any(|item| item.text() == Some(value))
        {
            return Err(TemplateError::new(
                parameter.line,
                format!("the parameter {name} does not allow {value:?}"),
            ));
        }
        if kind == "CommaDelimitedList" || kind.starts_with("List<") {
            let items = value.split(',').map(|item| Node::scalar(line, item.trim()));
            return Ok(Node::new(line, Value::Sequence(items.collect())));
        }
        Ok(Node::scalar(line, value))
    }

    fn attribute(&self, argument: &Node, line: usize) -> Evaluated {
        let path = match &argument.value {
            Value::Scalar(path) => path.clone(),
            Value::Sequence(_) => {
                let argument = self.evaluate(argument)?;
                let parts = list(&argument, "Fn::GetAtt")?.iter();
                parts.map(|part| text(part, "Fn::GetAtt")).collect::<Result<Vec<_>, _>>()?.join(".")
            }
            _ => return Err(TemplateError::new(line, "Fn::GetAtt takes RESOURCE.ATTRIBUTE")),
        };
        let Some((id, attribute)) = path.split_once('.') else {
            return Err(TemplateError::new(line, "Fn::GetAtt takes RESOURCE.ATTRIBUTE"));
        };
        if let Some(name) = self.guarded(id, line, || self.function_name(id))? {
            if attribute == "Arn" {
                return Ok(Node::scalar(line, self.function_arn(&name)));
            }
            return Err(TemplateError::not_here(
                line,
                format!("Fn::GetAtt: the attribute {attribute} of {id} is not supported here"),
            ));
        }
        match self.resources.iter().find(|(name, _)| name == id) {
            Some((_, resource)) => {
                let kind = resource.get("Type").and_then(Node::text).unwrap_or("a resource");
                self.note(
                    line,
                    format!("{path} ({kind}) is not made here: that text stands for it"),
                );
                Ok(Node::scalar(line, path))
            }
            None => Err(TemplateError::new(line, format!("this template has no resource {id}"))),
        }
    }

    fn substitute(&self, argument: &Node, line: usize) -> Evaluated {
        let (template, own) = match &argument.value {
            Value::Scalar(template) => (template.as_str(), &[][..]),
            Value::Sequence(items) => match &items[..] {
                [template, variables] => (text(template, "Fn::Sub")?, variables.entries()),
                _ => return Err(TemplateError::new(line, "Fn::Sub takes a text and variables")),
            },
            _ => return Err(TemplateError::new(line, "Fn::Sub takes a text")),
        };
        let (mut result, mut rest) = (String::new(), template);
        while let Some((before, after)) = rest.split_once("${") {
            result += before;
            let Some((name, remainder)) = after.split_once('}') else {
                return Err(TemplateError::new(line, "Fn::Sub: a `${` has no `}`"));
            };
            rest = remainder;
            // `${!Name}` stands for `${Name}`.
            if let Some(literal) = name.strip_prefix('!') {
                result += &format!("${{{literal}}}");
                continue;
            }
            let value = match own.iter().find(|(own, _)| own == name.trim()) {
                Some((_, node)) => self.evaluate(node)?,
                None if name.contains('.') => {
                    self.attribute(&Node::scalar(line, name.trim()), line)?
                }
                None => self.reference(name.trim(), line)?,
            };
            result += text(&value, "Fn::Sub")?;
        }
        Ok(Node::scalar(line, result + rest))
    }

    fn find_in_map(&self, argument: &Node, line: usize) -> Evaluated {
        let argument = self.evaluate(argument)?;
        let [map, first, second, ..] = list(&argument, "Fn::FindInMap")? else {
            return Err(TemplateError::new(line, "Fn::FindInMap takes a map and two keys"));
        };
        let keys = [map, first, second].map(|key| text(key, "Fn::FindInMap"));
        let mut found = self.mappings;
        for key in keys.clone() {
            found = found.and_then(|node| node.get(key.as_ref().copied().unwrap_or_default()));
        }
        let path: Vec<&str> = keys.into_iter().collect::<Result<_, _>>()?;
        match found {
            Some(node) => self.evaluate(node),
            None => Err(TemplateError::new(
                line,
                format!("Fn::FindInMap: there is no {}", path.join(".")),
            )),
        }
    }

    /// Whether a condition of the template's section holds.
    pub(crate) fn condition(&self, name: &str, line: usize) -> Result<bool, TemplateError> {
        let Some((_, node)) = self.conditions.iter().find(|(id, _)| id == name) else {
            return Err(TemplateError::new(line, format!("there is no condition {name}")));
        };
        self.guarded(&format!("the condition {name}"), line, || self.holds(node))
    }

    fn holds(&self, node: &Node) -> Result<bool, TemplateError> {
        let line = node.line;
        // `Condition: Name` in a list of conditions has the long form of a mapping.
        if let [(name, argument)] = node.entries()
            && name == "Condition"
        {
            return self.condition(text(argument, name)?, line);
        }
        let Value::Call(name, argument) = &node.value else {
            return match self.evaluate(node)?.text() {
                Some("true") => Ok(true),
                Some("false") => Ok(false),
                _ => Err(TemplateError::new(line, "this is no condition")),
            };
        };
        match &**name {
            "Condition" => self.condition(text(argument, name)?, line),
            "Fn::Equals" => {
                let (left, right) = self.pair(argument, name, line)?;
                Ok(text(&left, name)? == text(&right, name)?)
            }
            "Fn::Not" => match list(argument, name)? {
                [inner] => Ok(!self.holds(inner)?),
                _ => Err(TemplateError::new(line, "Fn::Not takes a list of 1")),
            },
            "Fn::And" | "Fn::Or" => {
                let inner = list(argument, name)?;
                let holds: Vec<bool> =
                    inner.iter().map(|inner| self.holds(inner)).collect::<Result<_, _>>()?;
                let all = name == "Fn::And";
                Ok(if all { holds.iter().all(|it| *it) } else { holds.contains(&true) })
            }
            _ => match self.evaluate(node)?.text() {
                Some(text) => Ok(text == "true"),
                None => Err(TemplateError::new(line, "this is no condition")),
            },
        }
    }

    /// Computes something that a name stands for, unless that is under way already.
    fn guarded<T>(
        &self,
        name: &str,
        line: usize,
        compute: impl FnOnce() -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        if !self.pending.borrow_mut().insert(name.to_owned()) {
            return Err(TemplateError::new(line, format!("{name} refers to itself")));
        }
        let result = compute();
        self.pending.borrow_mut().remove(name);
        result
    }
}

/// The text of a single value.
pub(crate) fn text<'n>(node: &'n Node, what: &str) -> Result<&'n str, TemplateError> {
    node.text().ok_or_else(|| {
        TemplateError::new(node.line, format!("{what} needs a single value, not {}", node.kind()))
    })
}

/// The items of a list.
pub(crate) fn list<'n>(node: &'n Node, what: &str) -> Result<&'n [Node], TemplateError> {
    match &node.value {
        Value::Sequence(items) => Ok(items),
        _ => {
            Err(TemplateError::new(node.line, format!("{what} needs a list, not {}", node.kind())))
        }
    }
}

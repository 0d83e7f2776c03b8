//! The functions of a SAM or CloudFormation template.

mod intrinsics;
mod node;
mod properties;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::{
    intrinsics::Scope,
    node::{Fault, Node, TemplateError, Value},
    properties::Properties,
};
use super::{Declaration, TemplateSettings};

/// Something that is said about a template, and that is no reason not to serve it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    pub(super) line: usize,
    pub(super) text: String,
}

/// What a template declares.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) functions: Vec<Declaration>,
    pub(super) notes: Vec<Note>,
}

/// Reads a template's text; its paths are relative to `directory`.
pub(super) fn read(
    text: &str,
    directory: &Path,
    settings: &TemplateSettings,
) -> Result<Template, TemplateError> {
    let root = Node::parse(text)?;
    let Some(resources) = root.get("Resources") else {
        return Err(TemplateError::new(root.line, "this is no template: it has no Resources"));
    };
    let place = (settings.account_id.as_str(), settings.region.as_str());
    let scope = Scope::new(&root, &settings.parameters, place);
    if let Some(unknown) =
        settings.parameters.keys().find(|name| !scope.parameters().any(|known| known == *name))
    {
        return Err(TemplateError::new(
            root.get("Parameters").map_or(root.line, |node| node.line),
            format!("the template has no parameter {unknown}, which --parameter gives"),
        ));
    }
    if let Some((_, transform)) = resources.entries().iter().find(|(id, _)| id.starts_with("Fn::"))
    {
        return Err(TemplateError::new(transform.line, "macros and loops are not supported here"));
    }
    let reader = Reader { root: &root, resources: resources.entries(), scope: &scope, directory };
    let mut functions = Vec::new();
    for (id, resource) in reader.resources {
        match reader.resource(id, resource) {
            Ok(function) => functions.extend(function),
            Err(error) if error.fault == Fault::Here => {
                scope.note(error.line, format!("{id} is not served: {}", error.message));
            }
            Err(error) => {
                return Err(TemplateError::new(error.line, format!("{id}: {}", error.message)));
            }
        }
    }
    reader.urls(&mut functions)?;
    Ok(Template { functions, notes: scope.into_notes() })
}

pub(super) struct Reader<'a> {
    root: &'a Node,
    resources: &'a [(String, Node)],
    scope: &'a Scope<'a>,
    directory: &'a Path,
}

impl Reader<'_> {
    fn resource(&self, id: &str, resource: &Node) -> Result<Option<Declaration>, TemplateError> {
        if !self.exists(resource)? {
            return Ok(None);
        }
        let Some(kind) = resource.get("Type").and_then(Node::text) else {
            return Err(TemplateError::new(resource.line, "a resource needs a Type"));
        };
        match kind {
            "AWS::Serverless::Function" | "AWS::Lambda::Function" => {
                let properties = self.properties(kind, resource)?;
                let name = self.scope.function_name(id)?.unwrap_or_else(|| id.to_owned());
                let function = Properties { id, kind, node: &properties, resource, reader: self };
                function.declare(name).map(Some)
            }
            // A part of a function, which looks for it there; permissions are for AWS.
            "AWS::Serverless::LayerVersion"
            | "AWS::Lambda::LayerVersion"
            | "AWS::Lambda::Url"
            | "AWS::Lambda::Permission"
            | "AWS::Lambda::LayerVersionPermission"
            | "AWS::IAM::Role"
            | "AWS::IAM::Policy"
            | "AWS::IAM::ManagedPolicy"
            | "AWS::Logs::LogGroup"
            | "AWS::CDK::Metadata" => Ok(None),
            _ => {
                self.scope.note(resource.line, format!("{id}: {kind} is not made here"));
                Ok(None)
            }
        }
    }

    /// Whether a resource's condition holds, if it has one.
    fn exists(&self, resource: &Node) -> Result<bool, TemplateError> {
        match resource.get("Condition") {
            None => Ok(true),
            Some(name) => self.scope.condition(intrinsics::text(name, "Condition")?, name.line),
        }
    }

    /// A resource's properties, computed, over what `Globals` say.
    fn properties(&self, kind: &str, resource: &Node) -> Result<Node, TemplateError> {
        let empty = Node::new(resource.line, Value::Mapping(vec![]));
        let own = resource.get("Properties").unwrap_or(&empty);
        let globals = self.root.get("Globals").and_then(|globals| globals.get("Function"));
        let own = self.evaluate_used(kind, own)?;
        match globals {
            Some(globals) if kind == "AWS::Serverless::Function" => {
                Ok(merge(self.evaluate_used(kind, globals)?, own))
            }
            _ => Ok(own),
        }
    }

    /// Computes the properties that are looked at: what the others refer to need not be there.
    fn evaluate_used(&self, kind: &str, node: &Node) -> Result<Node, TemplateError> {
        let all = kind == "AWS::Lambda::Url";
        let entries = node.entries().iter().map(|(name, value)| {
            let used = all || properties::USED.contains(&name.as_str());
            let value = if used { self.scope.evaluate(value)? } else { value.clone() };
            Ok::<_, TemplateError>((name.clone(), value))
        });
        Ok(Node::new(node.line, Value::Mapping(entries.collect::<Result<_, _>>()?)))
    }

    /// Where a layer's content is: a layer of this template, by the name it has here.
    fn layer(&self, id: &str, line: usize) -> Result<std::path::PathBuf, TemplateError> {
        let found = self.resources.iter().find(|(name, _)| name == id);
        let Some((_, resource)) = found else {
            return Err(TemplateError::not_here(
                line,
                format!("the layer {id} is not in this template: only such can be used here"),
            ));
        };
        let kind = resource.get("Type").and_then(Node::text).unwrap_or_default();
        let property = match kind {
            "AWS::Serverless::LayerVersion" => "ContentUri",
            "AWS::Lambda::LayerVersion" => "Content",
            _ => return Err(TemplateError::new(line, format!("{id} is no layer, but {kind}"))),
        };
        let content = resource
            .get("Properties")
            .and_then(|properties| properties.get(property))
            .map(|content| self.scope.evaluate(content))
            .transpose()?;
        let Some(content) = content else {
            return Err(TemplateError::new(
                resource.line,
                format!("the layer {id} has no {property}"),
            ));
        };
        properties::local(self, &content, resource, property)
    }

    /// `AWS::Lambda::Url` stands beside its function.
    fn urls(&self, functions: &mut [Declaration]) -> Result<(), TemplateError> {
        for (id, resource) in self.resources {
            if resource.get("Type").and_then(Node::text) != Some("AWS::Lambda::Url")
                || !self.exists(resource)?
            {
                continue;
            }
            let properties = self.properties("AWS::Lambda::Url", resource)?;
            let target =
                properties.get("TargetFunctionArn").and_then(Node::text).unwrap_or_default();
            let url = properties::url(&properties)?;
            let found = functions.iter_mut().find(|function| {
                target == function.name || target == self.scope.function_arn(&function.name)
            });
            match found {
                Some(function) => function.url = Some(url),
                None => self.scope.note(
                    resource.line,
                    format!("{id}: a URL of {target:?}, which is no function of this template"),
                ),
            }
        }
        Ok(())
    }
}

/// SAM's way: single values are replaced, mappings merged, lists joined.
fn merge(globals: Node, own: Node) -> Node {
    let line = own.line;
    match (globals.value, own.value) {
        (Value::Mapping(globals), Value::Mapping(mut own)) => {
            for (name, global) in globals {
                match own.iter_mut().find(|(key, _)| *key == name) {
                    Some((_, value)) => {
                        let mine = std::mem::replace(value, Node::new(line, Value::Null));
                        *value = merge(global, mine);
                    }
                    None => own.push((name, global)),
                }
            }
            Node::new(line, Value::Mapping(own))
        }
        (Value::Sequence(mut globals), Value::Sequence(own)) => {
            globals.extend(own);
            Node::new(line, Value::Sequence(globals))
        }
        (_, own) => Node::new(line, own),
    }
}

//! A template's text as a tree that knows its lines, YAML or JSON.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

/// How deep a template may be nested, and how much its aliases may make of it.
const DEPTH_LIMIT: usize = 64;
const NODE_LIMIT: usize = 500_000;

/// A part of a template.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Node {
    /// Where it stands, from 1.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// What a part of a template is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// Nothing: `null`, or what `AWS::NoValue` leaves.
    Null,
    /// A string, number or truth value, as it is written.
    Scalar(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(String, Node)>),
    /// An intrinsic function with its long name, `Ref`, `Condition` or `Fn::…`.
    Call(String, Box<Node>),
}

/// What is wrong with a template, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct TemplateError {
    pub(crate) line: usize,
    pub(crate) message: String,
    pub(crate) fault: Fault,
}

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The template's: nothing of it is served.
    Template,
    /// This machine's, which has not what it takes: the function is left out.
    Here,
}

impl TemplateError {
    pub(crate) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into(), fault: Fault::Template }
    }

    /// It may be right, and work at AWS.
    pub(crate) fn not_here(line: usize, message: impl Into<String>) -> Self {
        Self { fault: Fault::Here, ..Self::new(line, message) }
    }
}

impl From<ScanError> for TemplateError {
    fn from(error: ScanError) -> Self {
        Self::new(error.marker().line(), error.info())
    }
}

impl Node {
    pub(crate) fn new(line: usize, value: Value) -> Self {
        Self { line, value }
    }

    pub(crate) fn scalar(line: usize, text: impl Into<String>) -> Self {
        Self::new(line, Value::Scalar(text.into()))
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(entries) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// The entries of a mapping; none of anything else.
    pub(crate) fn entries(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The text of a string, number or truth value.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Call(..) => "a function",
        }
    }

    /// Reads a template's text: its first document.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Builder::default().build(text)
    }
}

/// A collection whose end is still to come.
struct Open {
    line: usize,
    tag: Option<String>,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(String, Node)>, key: Option<String> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: std::collections::HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    fn build(mut self, text: &str) -> Result<Node, TemplateError> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event?;
            let line = span.start.line();
            match event {
                Event::Scalar(text, style, anchor, tag) => {
                    let value = scalar(text, style);
                    self.complete(Node { line, value }, anchor, function(tag.as_deref()))?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.begin(line, anchor, tag.as_deref(), OpenKind::Sequence(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    let kind = OpenKind::Mapping { entries: Vec::new(), key: None };
                    self.begin(line, anchor, tag.as_deref(), kind)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end()?,
                Event::Alias(anchor) => {
                    let node = self.anchors.get(&anchor).cloned().ok_or_else(|| {
                        TemplateError::new(line, "an alias of what has not ended yet")
                    })?;
                    self.nodes += count(&node);
                    self.complete(node, 0, None)?;
                }
                Event::DocumentEnd => break,
                _ => {}
            }
        }
        self.root.ok_or_else(|| TemplateError::new(1, "the file is empty"))
    }

    fn begin(
        &mut self,
        line: usize,
        anchor: usize,
        tag: Option<&Tag>,
        kind: OpenKind,
    ) -> Result<(), TemplateError> {
        if self.open.len() >= DEPTH_LIMIT {
            return Err(TemplateError::new(
                line,
                format!("nested deeper than {DEPTH_LIMIT} levels"),
            ));
        }
        self.open.push(Open { line, tag: function(tag), anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), TemplateError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.kind {
            OpenKind::Sequence(items) => Value::Sequence(items),
            OpenKind::Mapping { mut entries, .. } => match &entries[..] {
                [(name, _)] if is_function(name) => match entries.pop() {
                    Some((name, argument)) => Value::Call(name, Box::new(argument)),
                    None => Value::Null,
                },
                _ => Value::Mapping(entries),
            },
        };
        self.complete(Node { line: open.line, value }, open.anchor, open.tag)
    }

    /// A node is whole: it belongs to the collection that is open.
    fn complete(
        &mut self,
        node: Node,
        anchor: usize,
        tag: Option<String>,
    ) -> Result<(), TemplateError> {
        let line = node.line;
        self.nodes += 1;
        if self.nodes > NODE_LIMIT {
            return Err(TemplateError::new(line, "too large, with what its aliases stand for"));
        }
        let node = match tag {
            Some(name) => Node::new(line, Value::Call(name, Box::new(node))),
            None => node,
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::Sequence(items)) => items.push(node),
            Some(OpenKind::Mapping { entries, key }) => match key.take() {
                None => {
                    let text = match node.value {
                        Value::Scalar(text) => text,
                        Value::Null => "null".to_owned(),
                        _ => return Err(TemplateError::new(line, "a key must be a single value")),
                    };
                    if entries.iter().any(|(name, _)| *name == text) {
                        return Err(TemplateError::new(line, format!("{text:?} is there twice")));
                    }
                    *key = Some(text);
                }
                // A merge key: what is given beside it counts.
                Some(name) if name == "<<" => {
                    let maps = match &node.value {
                        Value::Sequence(items) => items.iter().collect(),
                        _ => vec![&node],
                    };
                    for (name, value) in maps.into_iter().flat_map(Node::entries) {
                        if !entries.iter().any(|(given, _)| given == name) {
                            entries.push((name.clone(), value.clone()));
                        }
                    }
                }
                Some(name) => entries.push((name, node)),
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Sequence(items) => items.iter().map(count).sum(),
        Value::Mapping(entries) => entries.iter().map(|(_, node)| count(node)).sum(),
        Value::Call(_, argument) => count(argument),
        Value::Null | Value::Scalar(_) => 0,
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    match (style, &*text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        _ => Value::Scalar(text.into_owned()),
    }
}

fn is_function(name: &str) -> bool {
    name == "Ref" || name.starts_with("Fn::")
}

/// The long name of CloudFormation's short form; nothing for YAML's own tags.
fn function(tag: Option<&Tag>) -> Option<String> {
    let tag = tag.filter(|tag| tag.handle == "!")?;
    Some(match &*tag.suffix {
        "" => return None,
        "Ref" | "Condition" => tag.suffix.clone(),
        name => format!("Fn::{name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Node {
        Node::parse(text).unwrap()
    }

    #[test]
    fn lines_tags_and_long_forms() {
        let node = parse("a:\n  - !Ref B\n  - {Ref: B}\n  - Fn::Sub: x\nc: !GetAtt D.Arn\n");
        let Value::Sequence(items) = &node.get("a").unwrap().value else { panic!("{node:?}") };
        let call = |name: &str, line, text: &str| {
            Node::new(line, Value::Call(name.to_owned(), Box::new(Node::scalar(line, text))))
        };
        assert_eq!(items[..], [call("Ref", 2, "B"), call("Ref", 3, "B"), call("Fn::Sub", 4, "x")]);
        assert_eq!(*node.get("c").unwrap(), call("Fn::GetAtt", 5, "D.Arn"));
    }

    #[test]
    fn a_tag_of_a_collection() {
        let node = parse("a: !Join\n  - ','\n  - [x, !Ref Y]\n");
        let Value::Call(name, argument) = &node.get("a").unwrap().value else { panic!("{node:?}") };
        assert_eq!(name, "Fn::Join");
        assert!(matches!(&argument.value, Value::Sequence(items) if items.len() == 2));
    }

    #[test]
    fn json_is_yaml() {
        let node = parse("{\n\t\"a\": {\"Fn::GetAtt\": [\"B\", \"Arn\"]},\n  \"n\": null\n}");
        assert!(
            matches!(&node.get("a").unwrap().value, Value::Call(name, _) if name == "Fn::GetAtt")
        );
        assert!(node.get("n").unwrap().is_null());
        assert_eq!(node.get("a").unwrap().line, 2);
    }

    #[test]
    fn what_is_quoted_is_text() {
        let node = parse("a: 'null'\nb: \"\"\nc: ~\nd:\n");
        assert_eq!(node.get("a").unwrap().text(), Some("null"));
        assert_eq!(node.get("b").unwrap().text(), Some(""));
        assert!(node.get("c").unwrap().is_null());
        assert!(node.get("d").unwrap().is_null());
    }

    #[test]
    fn anchors_and_merges() {
        let node = parse("x: &x {a: 1, b: 2}\ny:\n  b: 3\n  <<: *x\n");
        let y = node.get("y").unwrap();
        assert_eq!(y.get("a").unwrap().text(), Some("1"));
        assert_eq!(y.get("b").unwrap().text(), Some("3"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let wrong = |text: &str| Node::parse(text).unwrap_err();
        assert_eq!(wrong("a: 1\nb: 2\na: 3\n").to_string(), "line 3: \"a\" is there twice");
        assert_eq!(wrong("").to_string(), "line 1: the file is empty");
        assert_eq!(wrong("a: [1,\nb: {").line, 2);
        assert_eq!(wrong("? [a]\n: b\n").message, "a key must be a single value");
        assert!(wrong(&"[".repeat(200)).message.contains("nested deeper"));
    }

    #[test]
    fn aliases_do_not_explode() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let items = vec![format!("*a{before}"); 10].join(",");
            text += &format!("a{level}: &a{level} [{items}]\n");
        }
        assert!(Node::parse(&text).unwrap_err().message.contains("aliases"));
    }
}

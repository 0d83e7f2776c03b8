//! Templates as people write them.

use std::{collections::BTreeMap, fs};

use super::*;

struct Project {
    directory: tempfile::TempDir,
    settings: TemplateSettings,
}

impl Project {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["src", "other", "layer"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("code.zip"), "").unwrap();
        let settings = TemplateSettings {
            parameters: BTreeMap::new(),
            account_id: "123456789012".to_owned(),
            region: "eu-west-1".to_owned(),
        };
        Self { directory, settings }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    fn read(&self, text: &str) -> Result<Template, TemplateError> {
        read(text, self.directory.path(), &self.settings)
    }

    fn function(&self, text: &str) -> Declaration {
        let mut template = self.read(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(template.functions.len(), 1, "{template:?}");
        template.functions.remove(0)
    }

    /// A function with one environment variable, and that variable.
    fn variable(&self, value: &str, sections: &str) -> Result<String, TemplateError> {
        let template = self.read(&format!(
            "{sections}\nResources:\n  F:\n    Type: AWS::Serverless::Function\n    Properties:\n      \
             Runtime: python3.12\n      Handler: a.b\n      CodeUri: src\n      Environment:\n        \
             Variables:\n          V: {value}\n  Table:\n    Type: AWS::DynamoDB::Table\n"
        ))?;
        Ok(template.functions[0].environment.get("V").cloned().unwrap_or_default())
    }
}

const SAM: &str = r#"
AWSTemplateFormatVersion: '2010-09-09'
Transform: AWS::Serverless-2016-10-31
Globals:
  Function:
    Timeout: 7
    MemorySize: 256
    Runtime: python3.12
    Environment:
      Variables: {STAGE: test, BOTH: global}
    Layers: [!Ref Shared]
    Tags: {a: b}
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src/
      Handler: app.handler
      MemorySize: 512
      Environment:
        Variables: {BOTH: own, SELF: !Ref Hello}
      Policies: [!ImportValue nothing]
      Role: !GetAtt Nowhere.Arn
      EphemeralStorage: {Size: 1024}
      SnapStart: {ApplyOn: PublishedVersions}
      AutoPublishAlias: live
      ReservedConcurrentExecutions: 3
      ProvisionedConcurrencyConfig: {ProvisionedConcurrentExecutions: 2}
      EventInvokeConfig:
        MaximumRetryAttempts: 1
        MaximumEventAgeInSeconds: 60
        DestinationConfig:
          OnFailure: {Type: Lambda, Destination: !GetAtt Other.Arn}
          OnSuccess: {Type: SQS}
      FunctionUrlConfig:
        AuthType: NONE
        InvokeMode: RESPONSE_STREAM
        Cors: {AllowOrigins: ['*'], AllowCredentials: false, MaxAge: 10}
      Events:
        Api: {Type: HttpApi}
      VpcConfig: {SubnetIds: [!Ref Nothing]}
  Other:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: !Sub 'other-${AWS::Region}', CodeUri: code.zip, Handler: x.y}
  Shared:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: layer}
  Queue:
    Type: AWS::SQS::Queue
"#;

#[test]
fn a_sam_template() {
    let project = Project::new();
    let template = project.read(SAM).unwrap();
    let at = |path: &str| project.directory.path().join(path);
    let [hello, other] = &template.functions[..] else { panic!("{template:?}") };
    assert_eq!(hello.name, "Hello");
    assert_eq!(hello.runtime.as_deref(), Some("python3.12"));
    assert_eq!(hello.code, Some(at("src/")));
    assert_eq!((hello.memory, hello.timeout, hello.tmp_size), (Some(512), Some(7), Some(1024)));
    let variables = [("BOTH", "own"), ("SELF", "Hello"), ("STAGE", "test")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(hello.environment, variables.into());
    assert_eq!(hello.layers, [at("layer")]);
    assert!(hello.snap_start);
    assert_eq!(hello.alias.as_deref(), Some("live"));
    assert_eq!((hello.reserved_concurrency, hello.provisioned_concurrency), (Some(3), Some(2)));
    let events = hello.events.as_ref().unwrap();
    assert_eq!((events.retries, events.max_age), (Some(1), Some(60)));
    let arn = "arn:aws:lambda:eu-west-1:123456789012:function:other-eu-west-1";
    assert_eq!(events.on_failure.as_deref(), Some(arn));
    assert_eq!(events.on_success, None);
    let url = hello.url.as_ref().unwrap();
    assert!(url.streams && !url.iam);
    let cors = url.cors.as_ref().unwrap();
    assert_eq!((&cors.allow_origins[..], cors.max_age), (&["*".to_owned()][..], Some(10)));
    assert_eq!(other.name, "other-eu-west-1");
    assert_eq!((other.code.as_ref(), other.memory), (Some(&at("code.zip")), Some(256)));
    let notes: Vec<(usize, &str)> =
        template.notes.iter().map(|note| (note.line, note.text.as_str())).collect();
    assert_eq!(
        notes,
        [
            (34, "Hello: OnSuccess has no Destination, and none is made here"),
            (40, "Hello: the property Events has no effect here"),
            (41, "Hello: the property VpcConfig has no effect here"),
            (49, "Queue: AWS::SQS::Queue is not made here"),
        ]
    );
}

#[test]
fn a_cloudformation_template_in_json() {
    let project = Project::new();
    let function = project.function(
        r#"{
          "Resources": {
            "Fn": {
              "Type": "AWS::Lambda::Function",
              "Properties": {
                "FunctionName": {"Fn::Join": ["-", ["my", {"Ref": "AWS::AccountId"}]]},
                "Code": {"S3Bucket": "cdk", "S3Key": "x.zip"},
                "Runtime": "nodejs22.x", "Handler": "index.handler",
                "Layers": [{"Ref": "L"}], "MemorySize": "256"
              },
              "Metadata": {"aws:asset:path": "code.zip", "aws:asset:property": "Code"}
            },
            "L": {"Type": "AWS::Lambda::LayerVersion", "Properties": {"Content": "layer"}},
            "U": {"Type": "AWS::Lambda::Url",
                  "Properties": {"AuthType": "AWS_IAM", "TargetFunctionArn": {"Fn::GetAtt": ["Fn", "Arn"]}}}
          }
        }"#,
    );
    assert_eq!(function.name, "my-123456789012");
    assert_eq!(function.code, Some(project.directory.path().join("code.zip")));
    assert_eq!(function.layers, [project.directory.path().join("layer")]);
    assert_eq!(function.memory, Some(256));
    assert!(function.url.unwrap().iam);
}

#[test]
fn an_image_function() {
    let function = Project::new().function(
        "Globals: {Function: {Runtime: python3.12, Handler: x.y}}\nResources:\n  I:\n    \
         Type: AWS::Serverless::Function\n    Properties:\n      PackageType: Image\n      \
         ImageUri: example:1\n      ImageConfig:\n        Command: [a.b]\n        \
         EntryPoint: [/run, it]\n        WorkingDirectory: /w\n",
    );
    assert_eq!((function.image.as_deref(), function.runtime), (Some("example:1"), None));
    assert_eq!(function.command, Some(vec!["a.b".to_owned()]));
    assert_eq!(function.entrypoint.unwrap().len(), 2);
    assert_eq!(function.working_directory.as_deref(), Some("/w"));
}

#[test]
fn functions_of_cloudformation() {
    let project = Project::new();
    let sections = "Parameters:\n  Stage: {Type: String, Default: dev}\n  \
                    Names: {Type: CommaDelimitedList, Default: 'a, b,c'}\n\
                    Mappings:\n  Sizes:\n    dev: {Size: 1}\n    prod: {Size: 2}\n\
                    Conditions:\n  IsDev: !Equals [!Ref Stage, dev]\n  \
                    NotDev: !Not [!Condition IsDev]\n  \
                    Both: !And [Condition: IsDev, !Not [Condition: NotDev]]\n  \
                    Any: !Or [Condition: NotDev, !Equals [a, b]]";
    for (expression, expected) in [
        ("!Ref Stage", "dev"),
        ("{Ref: Stage}", "dev"),
        ("!Sub '${Stage}-${AWS::Region}-${!Kept}'", "dev-eu-west-1-${Kept}"),
        ("!Sub ['${X}/${Stage}', {X: !Ref 'AWS::Partition'}]", "aws/dev"),
        ("!Sub '${F.Arn}'", "arn:aws:lambda:eu-west-1:123456789012:function:F"),
        ("!GetAtt F.Arn", "arn:aws:lambda:eu-west-1:123456789012:function:F"),
        ("{'Fn::GetAtt': [F, Arn]}", "arn:aws:lambda:eu-west-1:123456789012:function:F"),
        ("!Ref Table", "Table"),
        ("!GetAtt Table.StreamArn", "Table.StreamArn"),
        ("!Join ['+', !Ref Names]", "a+b+c"),
        ("!Select [1, !Ref Names]", "b"),
        ("!Select ['0', !Split ['.', 'x.y']]", "x"),
        ("!FindInMap [Sizes, !Ref Stage, Size]", "1"),
        ("!If [IsDev, yes, no]", "yes"),
        ("!If [NotDev, yes, no]", "no"),
        ("!If [Both, yes, no]", "yes"),
        ("!If [Any, yes, no]", "no"),
        ("!If [IsDev, !Ref 'AWS::NoValue', no]", ""),
        ("!Base64 hello", "aGVsbG8="),
        ("12", "12"),
        ("true", "true"),
    ] {
        let found = project.variable(expression, sections);
        assert_eq!(found.as_deref(), Ok(expected), "{expression}");
    }
    let production = Project::new().with("Stage", "prod");
    let found = production.variable("!FindInMap [Sizes, !Ref Stage, Size]", sections);
    assert_eq!(found.as_deref(), Ok("2"));
}

#[test]
fn what_is_wrong_is_told_with_name_and_line() {
    let project = Project::new();
    for (expression, message) in [
        ("!Ref Nothing", "F: Nothing is neither a parameter nor a resource of this template"),
        ("!Ref AWS::Nothing", "F: there is no AWS::Nothing"),
        ("!GetAtt Nothing.Arn", "F: this template has no resource Nothing"),
        ("!GetAtt F", "F: Fn::GetAtt takes RESOURCE.ATTRIBUTE"),
        ("!Sub '${F'", "F: Fn::Sub: a `${` has no `}`"),
        ("!Join [a]", "F: Fn::Join takes a list of 2, not of 1"),
        ("!Select [3, [a]]", "F: Fn::Select: there is no item 3 among 1"),
        ("!FindInMap [A, b, c]", "F: Fn::FindInMap: there is no A.b.c"),
        ("!If [X, a, b]", "F: there is no condition X"),
        ("[a]", "F: V needs a single value, not a list"),
        ("!Ref P", "F: the parameter P has no default: give --parameter P=VALUE"),
        ("!Ref Q", "F: the parameter Q does not allow \"c\""),
        ("!If [Circle, a, b]", "F: the condition Circle refers to itself"),
    ] {
        let sections = "Parameters: {P: {Type: String}, Q: {Default: c, AllowedValues: [a, b]}}\n\
                        Conditions: {Circle: !Not [!Condition Circle]}";
        let error = project.variable(expression, sections).unwrap_err();
        assert_eq!(error.message, message, "{expression}");
        assert!(error.line > 0);
    }
    let error = Project::new().with("X", "1").variable("a", "").unwrap_err();
    assert_eq!(error.message, "the template has no parameter X, which --parameter gives");
    let wrong = |properties: &str| {
        let text = format!(
            "Resources:\n  F:\n    Type: AWS::Serverless::Function\n    Properties: {properties}\n"
        );
        project.read(&text).unwrap_err()
    };
    let error = wrong("{Runtime: python3.12, Handler: a.b, CodeUri: nowhere}");
    assert!(error.message.starts_with("F: CodeUri: there is no /"), "{error}");
    assert_eq!(error.line, 4);
    let error = wrong("{Runtime: python3.12, MemorySize: much}");
    assert_eq!(error.message, "F: MemorySize is \"much\": it must be a number");
    assert_eq!(wrong("{CodeUri: src}").message, "F: the function has neither Runtime nor ImageUri");
    assert!(project.read("a: b").unwrap_err().message.contains("no Resources"));
    assert_eq!(
        project.read("Resources: {F: {}}").unwrap_err().message,
        "F: a resource needs a Type"
    );
}

#[test]
fn what_cannot_be_served_here_is_left_out_and_told() {
    let project = Project::new();
    for (properties, message) in [
        ("{Runtime: r, InlineCode: x}", "code within the template is not supported here"),
        ("{Runtime: r, CodeUri: 's3://b/k'}", "CodeUri is s3://b/k"),
        ("{Runtime: r, CodeUri: {Bucket: b, Key: k}}", "CodeUri is not on this machine"),
        ("{PackageType: Image}", "an image function needs an ImageUri"),
        ("{Runtime: r, CodeUri: src, Layers: ['arn:aws:lambda:x:1:layer:l:2']}", "is at AWS"),
        (
            "{Runtime: r, CodeUri: src, Description: !ImportValue x}",
            "Fn::ImportValue is not supported",
        ),
    ] {
        let template = project.read(&format!(
            "Resources:\n  Ok:\n    Type: AWS::Serverless::Function\n    Properties: {{Runtime: r}}\n  \
             F:\n    Type: AWS::Serverless::Function\n    Properties: {properties}\n"
        ));
        let template = template.unwrap();
        assert_eq!(template.functions.len(), 1, "{properties}");
        let note = &template.notes[0];
        assert!(note.text.starts_with("F is not served: "), "{note:?}");
        assert!(note.text.contains(message), "{note:?}");
        assert!((6..=7).contains(&note.line), "{note:?}");
    }
}

#[test]
fn resources_with_conditions() {
    let text = "Parameters: {With: {Type: String, Default: 'no'}}\nConditions: {Wanted: !Equals [!Ref With, 'yes']}\n\
                Resources:\n  F:\n    Type: AWS::Serverless::Function\n    Condition: Wanted\n    \
                Properties: {Runtime: python3.12, Handler: a.b, CodeUri: src}\n";
    assert!(Project::new().read(text).unwrap().functions.is_empty());
    assert_eq!(Project::new().with("With", "yes").read(text).unwrap().functions.len(), 1);
}

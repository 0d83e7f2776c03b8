//! Why an operation of the control plane is refused, in AWS's words.

use costrel_store::{CreateError, StoreError};

use crate::{DiskError, ReferenceError, Violations};

/// Why an operation of the control plane is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Members of the request are out of their bounds. AWS: `ValidationException`.
    #[error(transparent)]
    Violations(#[from] Violations),
    /// No function is named that way. AWS: `ValidationException`, or, qualified twice,
    /// `InvalidParameterValueException`.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// What is asked for makes no sense. AWS: `InvalidParameterValueException`.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Something is not there. AWS: `ResourceNotFoundException` and its kin.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Something stands in the way. AWS: `ResourceConflictException`.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The revision is another one. AWS: `PreconditionFailedException`.
    #[error(
        "The Revision Id provided does not match the latest Revision Id. Call the \
         {call} API to retrieve the latest Revision Id"
    )]
    Revision {
        /// The operation that tells the revision.
        call: &'static str,
    },
    /// A policy would have more than 20480 bytes. AWS: `PolicyLengthExceededException`.
    #[error("The final policy size ({size}) is bigger than the limit (20480).")]
    PolicyLength {
        /// Its size in bytes.
        size: usize,
    },
    /// More than 50 MiB of zip file. AWS: `RequestEntityTooLargeException`.
    #[error("The uploaded zip file has {size} bytes; the limit is {limit} bytes")]
    UploadSize {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The catalog's files cannot be written. AWS: `ServiceException`.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The code's files cannot be written. AWS: `ServiceException`.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The code cannot be written. AWS: `ServiceException`.
    #[error("cannot write the uploaded code")]
    Upload(#[source] std::io::Error),
}

impl From<CreateError<std::io::Error>> for CatalogError {
    fn from(error: CreateError<std::io::Error>) -> Self {
        match error {
            CreateError::Store(error) => Self::Store(error),
            CreateError::Writer(error) => Self::Upload(error),
        }
    }
}

/// What makes no sense in a request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it, and the fields are what stands in them")]
pub enum Invalid {
    #[error(
        "Runtime and Handler are mandatory parameters for functions created with deployment packages."
    )]
    RuntimeAndHandler,
    #[error("Please don't provide {0} when the intended function PackageType is Image.")]
    NotForImages(&'static str),
    #[error("Please don't provide ImageConfig when the intended function PackageType is Zip.")]
    ImageConfigForZip,
    #[error("Please do not provide {0} when the intended function PackageType is {1}.")]
    OtherPackage(&'static str, &'static str),
    #[error("Value {0} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{known}] or be a valid ARN", known = costrel_functions::Runtime::names().collect::<Vec<_>>().join(", "))]
    Runtime(String),
    #[error(
        "The architecture arm64 is not supported by this host: only x86_64 functions run here."
    )]
    Architecture,
    #[error("Please provide a source for function code.")]
    NoCode,
    #[error(
        "Code from S3 is not supported here: there is no S3 beside this endpoint. Pass the code as ZipFile."
    )]
    S3,
    #[error("Please provide exactly one source for function code.")]
    TwoCodes,
    #[error("Could not unzip uploaded file. Please check your file, then try to upload again.")]
    Unzip,
    #[error("Uploaded file must be a non-empty zip")]
    EmptyZip,
    #[error("Unzipped size must be smaller than 262144000 bytes")]
    Unzipped,
    #[error(
        "Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is {0} bytes."
    )]
    Combined(u64),
    #[error("Source image {uri} is not valid. {reason}")]
    Image { uri: String, reason: String },
    #[error(
        "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {0}"
    )]
    ReservedVariables(String),
    #[error(
        "Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit. String measured: {0}"
    )]
    EnvironmentSize(String),
    #[error("Layer version {0} does not exist.")]
    NoLayer(String),
    #[error("Invalid layer arn: {0}")]
    LayerArn(String),
    #[error("You cannot reference more than 5 layers.")]
    LayerCount,
    #[error(
        "Two different versions of the same layer are not allowed to be referenced in the same function. {0} and {1}."
    )]
    SameLayer(String, String),
    #[error("SnapStart is not supported for functions with {0}.")]
    SnapStart(&'static str),
    #[error(
        "LogLevel is not supported when LogFormat is set to \"Text\". Remove LogLevel from your request or change the LogFormat to \"JSON\" and try again."
    )]
    LogLevel,
    #[error(
        "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({current}). Please try again with the CodeSHA256 in $LATEST."
    )]
    CodeSha256 { given: String, current: String },
    #[error("$LATEST version cannot be deleted without deleting the function.")]
    DeleteLatest,
    #[error("Aliases cannot be deleted by this operation: use DeleteAlias.")]
    DeleteAlias,
    #[error("Number of items in AdditionalVersionWeights cannot be greater than 1")]
    WeightCount,
    #[error(
        "Invalid function version {0}. The function version in AdditionalVersionWeights must differ from the alias's own."
    )]
    WeightVersion(String),
    #[error("$LATEST is not supported for an alias pointing to more than 1 version")]
    WeightLatest,
    #[error(
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100]."
    )]
    Reserved,
    #[error("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")]
    ProvisionedLatest,
    #[error("Alias with weights can not be used with Provisioned Concurrency")]
    ProvisionedWeights,
    #[error("Provisioned Concurrency is not supported for functions with SnapStart enabled.")]
    ProvisionedSnapStart,
    #[error(
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
    )]
    ProvisionedReserved,
    #[error("The destination ARN {0} is invalid.")]
    Destination(String),
    #[error("You must specify at least one of error handling or destination setting.")]
    NoEventInvoke,
    #[error("The principal {0} is invalid. Please check the principal and try again.")]
    Principal(String),
    #[error(
        "Tags on function aliases and versions are not supported. Please specify either a function ARN."
    )]
    TagQualifier,
    #[error("Number of tags exceeds resource tag limit.")]
    TagCount,
    #[error("{0} does not accept Marker {1}.")]
    Marker(&'static str, String),
    #[error("The RuntimeVersionArn is required when UpdateRuntimeOn is Manual.")]
    RuntimeVersion,
    #[error("The RuntimeVersionArn can be given only when UpdateRuntimeOn is Manual.")]
    NoRuntimeVersion,
    #[error("{0}")]
    Unsupported(&'static str),
}

/// What is not there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it, and the fields are what stands in them")]
pub enum Missing {
    #[error("Function not found: {0}")]
    Function(String),
    #[error("Cannot find alias arn: {0}")]
    Alias(String),
    #[error("The resource you requested does not exist.")]
    Resource,
    #[error("Layer version {0} does not exist.")]
    LayerVersion(String),
    #[error("Statement {0} is not found in resource policy.")]
    Statement(String),
    #[error("No policy is associated with the given resource.")]
    Policy,
    #[error("The function {0} doesn't have an EventInvokeConfig")]
    EventInvoke(String),
    #[error("No Provisioned Concurrency Config found for this function")]
    Provisioned,
    #[error("The code signing configuration {0} does not exist.")]
    Signing(String),
    #[error("Cannot find the code signing configuration {0}.")]
    FunctionSigning(String),
}

/// What stands in the way.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it, and the fields are what stands in them")]
pub enum Conflict {
    #[error("Function already exist: {0}")]
    Function(String),
    #[error("Alias already exists: {0}")]
    Alias(String),
    #[error("Unable to delete version because the following aliases reference it: [{0}]")]
    VersionOfAlias(String),
    #[error(
        "The statement id ({0}) provided already exists. Please provide a new statement id, or remove the existing statement."
    )]
    Statement(String),
    #[error(
        "Failed to create function url config for [functionArn = {0}]. Error message:  FunctionUrlConfig exists for this Lambda function"
    )]
    Url(String),
    #[error(
        "The operation cannot be performed at this time. The function is currently in the following state: Pending"
    )]
    Pending,
    #[error("The function {0} is declared by a file on the server's host: change it there.")]
    Declared(String),
    #[error(
        "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
    )]
    ProvisionedTwice,
    #[error("The code signing configuration {0} is used by a function.")]
    SigningInUse(String),
}

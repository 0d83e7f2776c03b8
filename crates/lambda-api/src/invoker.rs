//! What the API asks of whatever knows functions and runs them.

use std::sync::Arc;

use async_trait::async_trait;
use costrel_fleet::{InvokeError, Invoked};
use costrel_functions::{Invocation, ResponsePart};
use tokio::sync::mpsc;

use crate::ApiError;

/// Knows functions. The seam between HTTP and what is below it: tests put functions here that need
/// no machine.
pub trait Invoker: Send + Sync + 'static {
    /// The function that a caller names: by name, or by a partial or full ARN, with a qualifier in
    /// it or beside it. The weights of an alias are drawn here.
    ///
    /// # Errors
    /// What the caller is told: that there is no such function, that it cannot be invoked now, or
    /// that it is not named properly.
    fn resolve(
        &self,
        function: &str,
        qualifier: Option<&str>,
    ) -> Result<Arc<dyn Callable>, ApiError>;

    /// The function URL with this id.
    fn function_url(&self, id: &str) -> Option<Arc<FunctionUrl>>;
}

/// A version of a function, found for an invocation.
#[async_trait]
pub trait Callable: Send + Sync + 'static {
    /// The function's name.
    fn function(&self) -> &str;

    /// The version: a number, or `$LATEST`.
    fn version(&self) -> &str;

    /// The function's ARN, as the caller named it: with a qualifier if there was one.
    fn arn(&self) -> &str;

    /// Runs an invocation.
    ///
    /// # Errors
    /// [`InvokeError`]: it has no outcome.
    async fn invoke(
        &self,
        invocation: Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError>;

    /// Accepts an asynchronous invocation: it is durable when this returns.
    ///
    /// # Errors
    /// What the caller is told.
    async fn enqueue(&self, invocation: Invocation) -> Result<(), ApiError>;
}

/// A function URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionUrl {
    /// Its id: the first label of its host name.
    pub id: String,
    /// The function's name.
    pub function: String,
    /// The alias that it is of.
    pub qualifier: Option<String>,
    /// Who may use it.
    pub auth: UrlAuth,
    /// How the response goes out.
    pub mode: UrlMode,
    /// Which web pages may use it, if that is Lambda's to say.
    pub cors: Option<UrlCors>,
}

/// Who may use a function URL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UrlAuth {
    /// `NONE`: whoever knows it.
    None,
    /// `AWS_IAM`: whoever signs.
    Iam,
}

/// How the response of a function URL goes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UrlMode {
    /// `BUFFERED`: when it is complete.
    Buffered,
    /// `RESPONSE_STREAM`: as it comes.
    ResponseStream,
}

/// Which web pages may use a function URL: the members of AWS's `Cors`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UrlCors {
    /// Whether they may send what the browser knows of the user.
    pub allow_credentials: bool,
    /// The request headers that they may set, or `*`.
    pub allow_headers: Vec<String>,
    /// The methods that they may use, or `*`.
    pub allow_methods: Vec<String>,
    /// Their origins, or `*`.
    pub allow_origins: Vec<String>,
    /// The response headers that they may read, or `*`.
    pub expose_headers: Vec<String>,
    /// How long a browser may remember all this, in seconds: 0 to 86400.
    pub max_age_seconds: Option<u32>,
}

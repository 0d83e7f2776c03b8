//! Lambda's API over HTTP.

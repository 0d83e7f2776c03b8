//! How the API is set up.

/// How the API is set up.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// The account that functions belong to: 12 digits.
    pub account_id: String,
    /// The region that they are in.
    pub region: String,
    /// What every call must prove to know; [`None`]: calls from this host are trusted.
    pub token: Option<Token>,
    /// Names that guests know this host by: their calls bear them.
    pub host_aliases: Vec<String>,
}

/// A secret of whoever may call. It is never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the secret.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

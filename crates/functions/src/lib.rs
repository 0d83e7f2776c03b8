//! Lambda functions: what they are made of, how an instance lives, what it logs.

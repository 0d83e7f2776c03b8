//! The page's style, script and icon, which are part of the program.

pub(super) const STYLE: &str = include_str!("assets/style.css");
pub(super) const SCRIPT: &str = include_str!("assets/script.js");
pub(super) const ICON: &str = include_str!("assets/icon.svg");

//! Whatever the input, parsers answer, and what they print is what they read.

use costrel_image::{ImageSource, Platform, Reference};
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        let _ = text.parse::<Reference>();
        let _ = text.parse::<Platform>();
        let _ = ImageSource::parse(&text);
    }

    #[test]
    fn nearly_references_are_answered(text in "[a-zA-Z0-9.:/@_\\[\\]-]{0,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
            prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn references_print_what_they_read(
        registry in "(([a-z0-9]{1,8}\\.[a-z]{2,3}|localhost)(:[0-9]{1,5})?/)?",
        path in "[a-z0-9]{1,8}([._]|__|-{1,3}|/)[a-z0-9]{1,8}",
        tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
        digest in "(@sha256:[0-9a-f]{64})?",
    ) {
        let reference: Reference = format!("{registry}{path}{tag}{digest}").parse().unwrap();
        prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
        prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference.clone());
        prop_assert!(reference.tag().is_some() || reference.digest().is_some());
    }

    #[test]
    fn platforms_print_what_they_read(text in "[a-z0-9]{1,6}/[a-z0-9]{1,8}(/v?[0-9]{1,2})?") {
        let platform: Platform = text.parse().unwrap();
        prop_assert_eq!(&platform.to_string().parse::<Platform>().unwrap(), &platform);
        prop_assert_eq!(platform.distance(&platform), Some(0));
    }
}

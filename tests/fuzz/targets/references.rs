//! Names: what is understood prints as what it is.
#![no_main]

use costrel_image::{ImageSource, Platform, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = ImageSource::parse(text);
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().expect("its own"), reference);
        assert_eq!(reference.familiar().parse::<Reference>().expect("its own"), reference);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().expect("its own"), platform);
        assert_eq!(platform.distance(&platform), Some(0));
    }
});

//! Zip files with code: the reader, and the file system that comes of it.
#![no_main]

use std::fs;

use costrel_fuzz::{check, directory};
use costrel_rootfs::{CodePlacement, CodeSource, FunctionSource, Silent, Stager};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let directory = directory();
    let path = directory.join("code.zip");
    fs::write(&path, input).expect("a file");
    let function = FunctionSource {
        code: Some(CodeSource::Zip(path)),
        layers: Vec::new(),
        placement: CodePlacement::TaskAndRuntime,
        unpacked_limit: 1 << 20,
    };
    let stager = Stager::open(&directory.join("cache")).expect("a cache");
    if let Ok(disk) = stager.function(&function, &Silent) {
        check(disk.path());
    }
    for entry in stager.entries().expect("a list") {
        stager.remove(&entry).expect("it is not in use");
    }
});

//! What a snapshot depends on that its own files cannot say, or would say too late.

use std::path::Path;

use costrel_vmm::{BootError, file_stamp};

use crate::vmm::{FORMAT, processor};

/// Named facts, for people and to be compared.
pub(crate) fn compatibility(program: &Path) -> Result<Vec<(&'static str, String)>, BootError> {
    let host = |operation| move |source| BootError::Host { operation, source };
    let stamp = file_stamp(program).map_err(host("look at costrel-vmm"))?;
    let (name, sum) = processor().map_err(host("ask KVM for its CPUID"))?;
    Ok(vec![
        ("format", FORMAT.to_owned()),
        // Its digest would take longer than a restore.
        ("program", format!("costrel-vmm {}, {stamp}", env!("CARGO_PKG_VERSION"))),
        ("processor", format!("{name}, features {sum:08x}")),
    ])
}

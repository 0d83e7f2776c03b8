//! States of saved machines: what is understood is written as what it is.
#![no_main]

use costrel_vmm_kvm::vmm::snapshot::{MachineState, seal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = MachineState::decode(input);
    // As a payload, whose sums no random change would find.
    if let Ok(state) = MachineState::decode(&seal(input)) {
        let written = state.encode().expect("a state file");
        let again = MachineState::decode(&written).expect("its own");
        assert!(again.encode().expect("a state file") == written);
    }
});

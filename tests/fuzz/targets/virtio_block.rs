//! Disks: whatever a driver asks for, only the image and the buffers given for it change.
#![no_main]

use std::{cell::OnceCell, fs::File, os::unix::fs::FileExt as _};

use costrel_fuzz::{
    directory,
    guest::{Input, Machine, Manners},
};
use costrel_virtio::block::{Block, BlockSettings, Flush, Writing};
use libfuzzer_sys::fuzz_target;

const SECTORS: u64 = 64;

thread_local! {
    static IMAGE: OnceCell<File> = const { OnceCell::new() };
}

fn image() -> File {
    IMAGE.with(|image| {
        let image = image.get_or_init(|| {
            let mut options = File::options();
            options.read(true).write(true).create(true);
            options.open(directory().join("disk")).expect("an image")
        });
        image.write_all_at(&[7; 512 * SECTORS as usize], 0).expect("an image");
        image.try_clone().expect("an image")
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let kind = input.byte();
    let manners = if kind & 1 == 0 { Manners::Good } else { Manners::None };
    let writing = match kind & 6 {
        0 => Writing::Never,
        2 => Writing::Allowed(Flush::Ignored),
        _ => Writing::Allowed(Flush::Synced),
    };
    let image = image();
    let copy = image.try_clone().expect("an image");
    let settings = BlockSettings { image, writing, name: "fuzz".to_owned() };
    let mut machine = Machine::new(Block::new(settings).expect("a disk"), manners);
    while !input.is_empty() {
        match input.byte() % 8 {
            0..4 => {
                let mut header = [0; 16];
                header[0] = input.byte() % 16;
                match input.byte() {
                    255 => header[8..].copy_from_slice(&input.bytes::<8>()),
                    sector => header[8] = sector % 70,
                }
                machine.offer(0, &header, &mut input);
            }
            4 => machine.offer(0, &[], &mut input),
            5 if manners == Manners::None => {
                let address = u64::from(input.short()) * 2;
                machine.put(address, &input.bytes::<16>());
            }
            6 if !machine.runs() || input.byte() == 0 => machine.reset(&mut input),
            _ => machine.kick(0),
        }
    }
    machine.kick(0);
    assert_eq!(copy.metadata().expect("an image").len(), SECTORS * 512);
    if writing == Writing::Never {
        let mut now = [0; 512 * SECTORS as usize];
        copy.read_exact_at(&mut now, 0).expect("an image");
        assert!(now == [7; 512 * SECTORS as usize]);
    }
});

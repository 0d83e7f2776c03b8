//! What the kernel finds in our images, through a loop mount.
#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]

mod oracle;

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::Command,
    time::Duration,
};

use costrel_ext4::{
    Content, FileData, Image, ImageSpec, Metadata, NodeId, ScratchDirectory, ScratchSpec,
    format_scratch,
};
use oracle::{check, has_tools};

/// Mounts an image while `look` looks at it.
fn mounted(image: &Path, options: &str, look: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let output =
        Command::new("mount").args(["-o", options]).arg(image).arg(directory.path()).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("SKIPPED: cannot mount through a loop device: {}", said.trim());
            return;
        }
        Err(error) => {
            eprintln!("SKIPPED: cannot run mount: {error}");
            return;
        }
    }
    let looked = catch_unwind(AssertUnwindSafe(|| look(directory.path())));
    // A process that another test forks holds our files until it executes its program.
    let unmounted = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        Command::new("umount").arg(directory.path()).output().unwrap().status.success()
    });
    assert!(unmounted, "{} stays mounted", directory.path().display());
    if let Err(panic) = looked {
        resume_unwind(panic);
    }
}

fn directory(image: &mut Image<'_>, name: &str) -> NodeId {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    let tree = image.tree_mut();
    let entry =
        tree.insert(tree.root(), name.as_bytes(), Content::Directory, &metadata, 0).unwrap();
    tree.target(entry)
}

#[test]
fn finds_every_name_in_a_large_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = ImageSpec { uuid: [7; 16], label: "kernel", created: 0 };
    let mut image = Image::create(file.as_file(), spec).unwrap();
    let large = directory(&mut image, "large");
    let name = |n: u32| format!("{n}é{}", "x".repeat(n as usize % 90));
    for n in 0..30_000 {
        let content = Content::File(FileData::EMPTY);
        let metadata = Metadata { user: n, ..Metadata::default() };
        image.tree_mut().insert(large, name(n).as_bytes(), content, &metadata, 0).unwrap();
    }
    image.finish().unwrap();
    mounted(file.path(), "ro,loop", |root| {
        use std::os::unix::fs::MetadataExt as _;
        for n in 0..30_000 {
            assert_eq!(fs::metadata(root.join("large").join(name(n))).unwrap().uid(), n);
        }
        assert_eq!(fs::read_dir(root.join("large")).unwrap().count(), 30_000);
        assert!(fs::metadata(root.join("large/absent")).is_err());
    });
}

#[test]
fn reads_attributes_wherever_they_are() {
    let acl: Vec<u8> = [
        &2_u32.to_le_bytes()[..],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 232, 3, 0, 0],
        &[4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 4, 0, 255, 255, 255, 255],
    ]
    .concat();
    let attributes = [
        ("inline", vec![("user.a", b"1".to_vec()), ("user.empty", Vec::new())]),
        ("block", vec![("user.b", vec![b'b'; 3000]), ("trusted.c", vec![b'c'; 500])]),
        ("large", vec![("user.d", vec![b'd'; 50_000]), ("security.e", vec![b'e'; 10])]),
        ("acl", vec![("system.posix_acl_access", acl)]),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = ImageSpec { uuid: [8; 16], label: "kernel", created: 0 };
    let mut image = Image::create(file.as_file(), spec).unwrap();
    for (name, attributes) in &attributes {
        let attributes =
            attributes.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone()));
        let metadata =
            Metadata { mode: 0o644, attributes: attributes.collect(), ..Metadata::default() };
        let tree = image.tree_mut();
        let content = Content::File(FileData::EMPTY);
        tree.insert(tree.root(), name.as_bytes(), content, &metadata, 0).unwrap();
    }
    image.finish().unwrap();
    mounted(file.path(), "ro,loop", |root| {
        for (file, attributes) in &attributes {
            for (name, value) in attributes {
                let mut found = vec![0; 65536];
                let length = rustix::fs::lgetxattr(root.join(file), *name, &mut found).expect(name);
                assert!(found[..length] == *value, "{name} of {file}");
            }
        }
    });
}

#[test]
fn writes_to_a_scratch_disk_and_grows_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let directories = [ScratchDirectory { name: "upper", mode: 0o755 }];
    let spec = ScratchSpec {
        uuid: [9; 16],
        label: "scratch",
        created: 0,
        size: 700 << 20,
        directories: &directories,
    };
    format_scratch(file.as_file(), &spec).unwrap();
    let grown = OpenOptions::new().write(true).open(file.path()).unwrap();
    grown.set_len(12 << 30).unwrap();
    mounted(file.path(), "loop", |root| {
        for n in 0..2000 {
            let directory = root.join(format!("upper/{}", n % 50));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(n.to_string()), vec![1; 20_000]).unwrap();
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(&*root.to_string_lossy())).unwrap();
        let device = line.split(' ').next().unwrap();
        let grew = Command::new("resize2fs").arg(device).output();
        match grew {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(said.contains("Permission denied"), "resize2fs: {said}");
                eprintln!("SKIPPED in part: growing a mounted disk needs CAP_SYS_RESOURCE");
            }
            Err(error) => eprintln!("SKIPPED in part: cannot run resize2fs: {error}"),
        }
        let mut file = fs::File::create(root.join("upper/big")).unwrap();
        for _ in 0..100 {
            file.write_all(&[2; 1 << 20]).unwrap();
        }
    });
    if has_tools() {
        check(file.path());
    }
}

//! Images of all kinds of nodes, judged by e2fsck and read back by debugfs.

mod oracle;

use costrel_ext4::{Content, Device, FileData, Image, ImageSpec, Metadata, Timestamp, Tree};
use oracle::{check, debugfs, has_tools};

fn spec() -> ImageSpec<'static> {
    ImageSpec { uuid: *b"sixteen bytes ok", label: "test", created: 1_700_000_000 }
}

fn write(build: impl Fn(&mut Image<'_>)) -> Option<tempfile::NamedTempFile> {
    if !has_tools() {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut image = Image::create(file.as_file(), spec()).unwrap();
    build(&mut image);
    let written = image.finish().unwrap();
    assert_eq!(file.as_file().metadata().unwrap().len(), written.size);
    check(file.path());
    Some(file)
}

fn metadata(mode: u16) -> Metadata {
    let modified = Timestamp { seconds: 1_600_000_000, nanoseconds: 123_456_789 };
    Metadata { mode, user: 70_000, group: 80_000, modified, ..Metadata::default() }
}

fn add(tree: &mut Tree, name: &str, content: Content<'_>, metadata: &Metadata) {
    tree.insert(tree.root(), name.as_bytes(), content, metadata, 0).unwrap();
}

fn data(image: &mut Image<'_>, content: &[u8]) -> FileData {
    let mut file = image.file();
    file.write(content).unwrap();
    file.finish().unwrap()
}

#[test]
fn an_empty_image() {
    write(|_| {});
}

#[test]
fn every_kind_of_node() {
    let Some(image) = write(|image| {
        let hello = data(image, b"hello\n");
        let tree = image.tree_mut();
        add(tree, "file", Content::File(hello), &metadata(0o4755));
        add(tree, "empty", Content::File(FileData::EMPTY), &metadata(0));
        add(tree, "short", Content::Symlink(&[b's'; 59]), &metadata(0o777));
        add(tree, "long", Content::Symlink(&[b'l'; 60]), &metadata(0o777));
        add(tree, "longest", Content::Symlink(&[b'l'; 4095]), &metadata(0o777));
        let device = |major, minor| Device { major, minor };
        add(tree, "null", Content::CharacterDevice(device(1, 3)), &metadata(0o666));
        add(tree, "new", Content::BlockDevice(device(259, 70_000)), &metadata(0o600));
        add(tree, "pipe", Content::Fifo, &metadata(0o600));
        add(tree, "socket", Content::Socket, &metadata(0o600));
        let directory = tree
            .insert(tree.root(), b"directory", Content::Directory, &metadata(0o1777), 0)
            .unwrap();
        let directory = tree.target(directory);
        let file = tree.target(tree.find(tree.root(), b"file").unwrap());
        tree.link(directory, b"other\xff name", file, 0).unwrap();
    }) else {
        return;
    };
    assert_eq!(debugfs(image.path(), "cat /file"), "hello\n");
    let stat = debugfs(image.path(), "stat /file");
    for part in [
        "Mode:  04755",
        "User: 70000",
        "Group: 80000",
        "Links: 2",
        "Size: 6",
        "mtime: 0x5f5e1000:1d6f3454",
    ] {
        assert!(stat.contains(part), "{part} not in {stat}");
    }
    assert!(debugfs(image.path(), "stat /new").contains("major/minor number: 259:70000"));
    assert!(debugfs(image.path(), "stat /longest").contains("Size: 4095"));
}

#[test]
fn attributes_inline_in_a_block_and_beyond() {
    let Some(image) = write(|image| {
        let tree = image.tree_mut();
        let mut with = |name: &str, attributes: &[(&str, Vec<u8>)]| {
            let attributes =
                attributes.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.clone())).collect();
            let metadata = Metadata { attributes, ..metadata(0o644) };
            add(tree, name, Content::File(FileData::EMPTY), &metadata);
        };
        with("inline", &[("security.capability", vec![1; 20])]);
        with("inline2", &[("user.a", b"x".to_vec()), ("user.empty", vec![])]);
        with("block", &[("user.a", vec![b'v'; 300]), ("trusted.b", vec![b'w'; 99])]);
        with("large", &[("user.l", vec![b'l'; 60_000]), ("user.m", vec![b'm'; 3000])]);
        for n in 0..2500 {
            with(&format!("shared{n}"), &[("security.selinux", vec![b's'; 200])]);
        }
        let acl = [
            &2_u32.to_le_bytes()[..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[16, 0, 4, 0, 255, 255, 255, 255],
            &[32, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        with("acl", &[("system.posix_acl_access", acl)]);
    }) else {
        return;
    };
    assert!(debugfs(image.path(), "ea_get /block user.a").contains(&"v".repeat(300)));
    assert!(
        debugfs(image.path(), "ea_get /inline2 user.a").contains("= \"x\"")
            || debugfs(image.path(), "ea_get /inline2 user.a").contains('x')
    );
    assert!(debugfs(image.path(), "ea_list /large").contains("user.l (60000)"));
}

#[test]
fn directories_of_all_sizes() {
    let Some(image) = write(|image| {
        let tree = image.tree_mut();
        for count in [1, 100, 250, 251, 252, 253, 254, 255, 300, 5000, 100_000] {
            let name = format!("d{count}");
            let directory = tree
                .insert(tree.root(), name.as_bytes(), Content::Directory, &metadata(0o755), 0)
                .unwrap();
            let directory = tree.target(directory);
            for n in 0..count {
                let name = format!("e{n:06}");
                tree.insert(directory, name.as_bytes(), Content::Fifo, &metadata(0o644), 0)
                    .unwrap();
            }
        }
        let long =
            tree.insert(tree.root(), b"long", Content::Directory, &metadata(0o755), 0).unwrap();
        let long = tree.target(long);
        for n in 0..20_000 {
            let name = format!("{n:0>255}");
            tree.insert(long, name.as_bytes(), Content::Fifo, &metadata(0o644), 0).unwrap();
        }
        let many = tree
            .insert(tree.root(), b"subdirectories", Content::Directory, &metadata(0o755), 0)
            .unwrap();
        let many = tree.target(many);
        for n in 0..65_100 {
            let name = format!("{n}");
            tree.insert(many, name.as_bytes(), Content::Directory, &metadata(0o755), 0).unwrap();
        }
    }) else {
        return;
    };
    for name in ["/d100000/e000000", "/d100000/e099999", "/d5000/e002500", "/subdirectories/65099"]
    {
        assert!(debugfs(image.path(), &format!("stat {name}")).contains("Inode:"), "{name}");
    }
    assert!(debugfs(image.path(), "stat /d100000").contains("Flags: 0x81000"));
}

#[test]
fn sparse_and_large_files() {
    let Some(image) = write(|image| {
        let mut file = image.file();
        file.skip(5 << 30).unwrap();
        file.write(b"end").unwrap();
        let sparse = file.finish().unwrap();
        let mut file = image.file();
        // 2000 extents: a tree of two levels.
        for n in 0_u32..2000 {
            file.write(&n.to_le_bytes()).unwrap();
            file.skip(100_000).unwrap();
        }
        let holes = file.finish().unwrap();
        let mut file = image.file();
        let block: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        for _ in 0..300 {
            file.write(&block).unwrap();
        }
        let large = file.finish().unwrap();
        let dropped = data(image, &block);
        let zeros = data(image, &[0; 1 << 20]);
        let tree = image.tree_mut();
        add(tree, "sparse", Content::File(sparse), &metadata(0o644));
        add(tree, "holes", Content::File(holes), &metadata(0o644));
        add(tree, "large", Content::File(large), &metadata(0o644));
        add(tree, "dropped", Content::File(dropped), &metadata(0o644));
        add(tree, "zeros", Content::File(zeros), &metadata(0o644));
        tree.remove(tree.find(tree.root(), b"dropped").unwrap());
    }) else {
        return;
    };
    assert!(debugfs(image.path(), "stat /sparse").contains("Size: 5368709123"));
    assert!(debugfs(image.path(), "stat /zeros").contains("Blockcount: 0"));
    let stat = debugfs(image.path(), "ex /holes");
    assert!(stat.contains("2/ 2") || stat.contains("1/ 1"), "{stat}");
    use std::os::unix::fs::MetadataExt as _;
    let allocated = image.as_file().metadata().unwrap().blocks() * 512;
    assert!(allocated < (300 << 20) + (9 << 20), "{allocated}");
}

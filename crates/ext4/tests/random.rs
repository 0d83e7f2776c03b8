//! Random trees, judged by e2fsck, and one whose bytes must never change.

mod oracle;

use costrel_ext4::{Content, Device, Image, ImageSpec, Metadata, NodeId, Timestamp, is_intact};
use oracle::{check, has_tools};
use proptest::{prelude::*, test_runner::Config};

/// A node, its directory chosen among those before it.
#[derive(Clone, Debug)]
struct Node {
    directory: prop::sample::Index,
    name: Vec<u8>,
    kind: u8,
    /// Data and holes by turns, in units of 500 bytes.
    content: Vec<u16>,
    metadata: (u16, u32, i64, u32),
    attributes: Vec<(u8, u16)>,
}

fn node() -> impl Strategy<Value = Node> {
    let byte = any::<u8>().prop_map(|byte| if byte == b'/' || byte == 0 { b'x' } else { byte });
    (
        any::<prop::sample::Index>(),
        prop::collection::vec(byte, 1..255),
        0..9_u8,
        prop::collection::vec(0..600_u16, 0..14),
        (0..0o10000_u16, any::<u32>(), any::<i64>(), 0..1_000_000_000_u32),
        prop::collection::vec((any::<u8>(), 0..3000_u16), 0..4),
    )
        .prop_map(|(directory, name, kind, content, metadata, attributes)| Node {
            directory,
            name,
            kind,
            content,
            metadata,
            attributes,
        })
}

fn build(image: &mut Image<'_>, nodes: &[Node]) {
    let mut directories: Vec<NodeId> = vec![image.tree().root()];
    let mut files = Vec::new();
    for node in nodes {
        let directory = *node.directory.get(&directories);
        if matches!(&node.name[..], b"." | b"..") {
            continue;
        }
        // What is replaced must not stay among the directories to choose from.
        if image.tree().find(directory, &node.name).is_some() {
            continue;
        }
        let (mode, owner, seconds, nanoseconds) = node.metadata;
        let attribute = |(n, length): &(u8, u16)| {
            (format!("user.{n}").into_bytes(), vec![*n; usize::from(*length)])
        };
        let metadata = Metadata {
            mode,
            user: owner,
            group: !owner,
            modified: Timestamp { seconds, nanoseconds },
            accessed: Some(Timestamp { seconds: 5, nanoseconds: 6 }),
            changed: None,
            attributes: node.attributes.iter().map(attribute).collect(),
        };
        let target = vec![b't'; 1 + node.content.len() * 200];
        let content = match node.kind {
            0 | 1 => Content::Directory,
            2 => Content::Symlink(&target),
            3 => Content::CharacterDevice(Device { major: owner % 4096, minor: owner % 70_000 }),
            4 => Content::Fifo,
            5 if !files.is_empty() => {
                let file = *node.directory.get(&files);
                image.tree_mut().link(directory, &node.name, file, 0).unwrap();
                continue;
            }
            _ => {
                let mut file = image.file();
                for (index, units) in node.content.iter().enumerate() {
                    let length = usize::from(*units) * 500;
                    if index % 2 == 0 {
                        file.write(&vec![mode.to_le_bytes()[0] | 1; length]).unwrap();
                    } else {
                        file.skip(length as u64).unwrap();
                    }
                }
                Content::File(file.finish().unwrap())
            }
        };
        let tree = image.tree_mut();
        let entry = tree.insert(directory, &node.name, content, &metadata, 0).unwrap();
        match content {
            Content::Directory => directories.push(tree.target(entry)),
            Content::File(_) => files.push(tree.target(entry)),
            _ => {}
        }
        // Now and then something goes again.
        if node.content.len() == 13 && !matches!(content, Content::Directory) {
            tree.remove(entry);
        }
    }
}

fn spec() -> ImageSpec<'static> {
    ImageSpec { uuid: *b"0123456789abcdef", label: "random", created: 1 }
}

fn config() -> Config {
    let cases = match std::env::var_os("COSTREL_LONG_TESTS") {
        Some(_) => 3000,
        None => 48,
    };
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_trees_are_sound(nodes in prop::collection::vec(node(), 0..120)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut image = Image::create(file.as_file(), spec()).unwrap();
        build(&mut image, &nodes);
        image.finish().unwrap();
        prop_assert!(is_intact(file.as_file()).unwrap());
        if has_tools() {
            check(file.path());
        }
    }
}

/// If this fails on purpose, whoever keeps images by their keys must change its format version.
#[test]
fn the_layout_is_what_it_was() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut image = Image::create(file.as_file(), spec()).unwrap();
    let metadata = Metadata {
        mode: 0o644,
        modified: Timestamp { seconds: 1_000_000_000, nanoseconds: 5 },
        attributes: vec![(b"user.a".to_vec(), vec![b'a'; 200])],
        ..Metadata::default()
    };
    for n in 0..1000_u32 {
        let mut data = image.file();
        data.write(&n.to_le_bytes().repeat(n as usize)).unwrap();
        let data = data.finish().unwrap();
        let tree = image.tree_mut();
        let name = format!("file{n}");
        tree.insert(tree.root(), name.as_bytes(), Content::File(data), &metadata, 0).unwrap();
    }
    image.finish().unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!((bytes.len(), crc32c::crc32c(&bytes)), (4_653_056, 0x9aea_ceee));
}

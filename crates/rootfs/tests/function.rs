//! Function code and layers, from directories and zip files of all sorts.
#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]

mod support;

use std::{
    fs,
    io::{Cursor, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use costrel_rootfs::{
    CodeError, CodePlacement, CodeSource, EntryError, FunctionSource, Silent, StageError,
    StagedDisk, Stager, create_scratch,
};
use support::{Mounted, check, tree};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

fn function(code: CodeSource) -> FunctionSource {
    FunctionSource {
        code: Some(code),
        layers: Vec::new(),
        placement: CodePlacement::Task,
        unpacked_limit: 1 << 20,
    }
}

fn stage(directory: &Path, function: &FunctionSource) -> Result<StagedDisk, StageError> {
    Stager::open(&directory.join("cache")).unwrap().function(function, &Silent)
}

type Zip = ZipWriter<Cursor<Vec<u8>>>;

fn zip(path: PathBuf, fill: impl FnOnce(&mut Zip)) -> PathBuf {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    fill(&mut writer);
    fs::write(&path, writer.finish().unwrap().into_inner()).unwrap();
    path
}

fn add(zip: &mut Zip, name: &str, content: &[u8], options: SimpleFileOptions) {
    zip.start_file(name, options).unwrap();
    zip.write_all(content).unwrap();
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

fn mode(disk: &StagedDisk, path: &str) -> Option<(u32, Vec<u8>)> {
    check(disk.path());
    let mounted = Mounted::new(disk.path())?;
    let found = tree(mounted.path()).remove(path.as_bytes()).expect(path);
    assert_eq!((found.user, found.group), (0, 0));
    Some((found.mode & 0o7777, found.content))
}

#[test]
fn directories_become_readable() {
    let directory = tempfile::tempdir().unwrap();
    let code = directory.path().join("code");
    fs::create_dir_all(code.join("package")).unwrap();
    fs::write(code.join("app.py"), "print()").unwrap();
    fs::write(code.join("package/run"), "#!").unwrap();
    symlink("package/run", code.join("link")).unwrap();
    fs::set_permissions(code.join("app.py"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(code.join("package/run"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(code.join("package"), fs::Permissions::from_mode(0o700)).unwrap();

    let source = function(CodeSource::Directory(code.clone()));
    let disk = stage(directory.path(), &source).unwrap();
    for (path, expected) in [
        ("var/task/app.py", 0o644),
        ("var/task/package", 0o755),
        ("var/task/package/run", 0o744),
        ("var/task", 0o755),
        ("opt", 0o755),
    ] {
        if let Some((mode, _)) = mode(&disk, path) {
            assert_eq!(mode, expected, "{path}");
        }
    }
    if let Some((_, target)) = mode(&disk, "var/task/link") {
        assert_eq!(target, b"package/run");
    }

    // Times do not matter, content does.
    fs::write(code.join("app.py"), "print()").unwrap();
    assert!(!stage(directory.path(), &source).unwrap().built());
    fs::write(code.join("app.py"), "print(1)").unwrap();
    assert!(stage(directory.path(), &source).unwrap().built());
    drop(std::os::unix::net::UnixListener::bind(code.join("socket")).unwrap());
    let refused = stage(directory.path(), &source).unwrap_err();
    assert!(matches!(entry_error(refused), ("socket", EntryError::Special)));
}

fn entry_error(error: StageError) -> (&'static str, EntryError) {
    match error {
        StageError::Code { source: CodeError::Entry { name, source }, .. } => (name.leak(), source),
        other => panic!("not an entry's: {other:?}"),
    }
}

#[test]
fn zip_files_keep_their_modes() {
    let directory = tempfile::tempdir().unwrap();
    let path = zip(directory.path().join("code.zip"), |zip| {
        let deflated = stored().compression_method(CompressionMethod::Deflated);
        let zstd = stored().compression_method(CompressionMethod::Zstd);
        add(zip, "private", b"p", stored().unix_permissions(0o600));
        add(zip, "d/run", &[b'x'; 70_000], deflated.unix_permissions(0o755));
        add(zip, "zstd", &[b'z'; 70_000], zstd.large_file(true));
        zip.add_directory("empty/", stored().unix_permissions(0o700)).unwrap();
        zip.add_symlink("link", "d/run", stored()).unwrap();
    });
    let layer = zip_layer(directory.path(), "one", "1");
    let other = zip_layer(directory.path(), "two", "2");
    let mut source = function(CodeSource::Zip(path));
    source.layers = vec![layer.clone(), other.clone()];
    source.placement = CodePlacement::TaskAndRuntime;
    let disk = stage(directory.path(), &source).unwrap();
    check(disk.path());
    let Some(mounted) = Mounted::new(disk.path()) else { return };
    let tree = tree(mounted.path());
    let found = |path: &str| &tree[path.as_bytes()];
    assert_eq!(found("var/task/private").mode & 0o7777, 0o600);
    assert_eq!(found("var/task/d/run").mode & 0o7777, 0o755);
    assert_eq!(found("var/task/d").mode & 0o7777, 0o755);
    assert_eq!(found("var/task/empty").mode & 0o7777, 0o700);
    assert_eq!(found("var/task/zstd").content, [b'z'; 70_000]);
    assert_eq!(found("var/task/link").content, b"d/run");
    assert_eq!(found("var/task/d/run").same_as, b"var/runtime/d/run");
    assert_eq!(found("opt/shared").content, b"2");
    assert_eq!(found("opt/one").content, b"1");
    source.layers = vec![other, layer];
    assert!(stage(directory.path(), &source).unwrap().built(), "the order counts");
}

fn zip_layer(directory: &Path, name: &str, content: &str) -> PathBuf {
    zip(directory.join(format!("{name}.zip")), |zip| {
        add(zip, name, content.as_bytes(), stored());
        add(zip, "shared", content.as_bytes(), stored());
    })
}

/// What a zip file is refused for.
fn refusal(fill: impl FnOnce(&mut Zip)) -> StageError {
    let directory = tempfile::tempdir().unwrap();
    let path = zip(directory.path().join("code.zip"), fill);
    stage(directory.path(), &function(CodeSource::Zip(path))).unwrap_err()
}

/// The same, after names in the zip file were changed behind the writer's back.
fn refusal_of_renamed(from: &str, to: &str, fill: impl FnOnce(&mut Zip)) -> StageError {
    assert_eq!(from.len(), to.len());
    let directory = tempfile::tempdir().unwrap();
    let path = zip(directory.path().join("code.zip"), fill);
    let mut bytes = fs::read(&path).unwrap();
    while let Some(at) = bytes.windows(from.len()).position(|part| part == from.as_bytes()) {
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    }
    fs::write(&path, bytes).unwrap();
    stage(directory.path(), &function(CodeSource::Zip(path))).unwrap_err()
}

#[test]
fn hostile_zip_files_are_refused_by_name() {
    let one = |zip: &mut Zip| add(zip, "NAME-OF-IT", b"", stored());
    for name in ["../etc/pwd", "a/../../bb", "/etc/shado"] {
        let (refused, error) = entry_error(refusal_of_renamed("NAME-OF-IT", name, one));
        assert_eq!(refused, name);
        assert!(matches!(error, EntryError::Escapes));
    }
    let two = |zip: &mut Zip| {
        add(zip, "name-a", b"1", stored());
        add(zip, "name-b", b"2", stored());
    };
    let (refused, error) = entry_error(refusal_of_renamed("name-b", "name-a", two));
    assert!(refused == "name-a" && matches!(error, EntryError::Duplicate), "{error}");
    let (refused, error) = entry_error(refusal(|zip| {
        add(zip, "f", b"", stored());
        add(zip, "f/g", b"", stored());
    }));
    assert!(refused == "f/g" && matches!(error, EntryError::NotADirectory(_)));
    let (refused, error) = entry_error(refusal(|zip| {
        zip.add_symlink("etc", "/etc", stored()).unwrap();
        add(zip, "etc/passwd", b"", stored());
    }));
    assert!(refused == "etc/passwd" && matches!(error, EntryError::BelowSymlink(_)));
    let bomb = refusal(|zip| {
        let deflated = stored().compression_method(CompressionMethod::Deflated);
        add(zip, "fine", b"", stored());
        add(zip, "bomb", &vec![0; 3 << 20], deflated);
    });
    assert!(
        matches!(&bomb, StageError::Code { source: CodeError::TooLarge { name, limit }, .. }
            if name == "bomb" && *limit == 1 << 20),
        "{bomb:?}"
    );
}

#[test]
fn info_zip_can_stream_and_use_zip64() {
    let directory = tempfile::tempdir().unwrap();
    let code = directory.path().join("code");
    fs::create_dir_all(code.join("d")).unwrap();
    fs::write(code.join("d/f"), "content ".repeat(1000)).unwrap();
    fs::set_permissions(code.join("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    let path = directory.path().join("code.zip");
    // To a pipe it writes data descriptors, and -fz makes it write zip64.
    for script in ["zip -qr - . | cat > ../code.zip", "rm ../code.zip; zip -qry -fz ../code.zip ."]
    {
        let shell =
            std::process::Command::new("sh").args(["-c", script]).current_dir(&code).status();
        if !shell.is_ok_and(|status| status.success()) || fs::metadata(&path).unwrap().len() == 0 {
            eprintln!("SKIPPED: zip is not installed (package zip)");
            return;
        }
        let disk = stage(directory.path(), &function(CodeSource::Zip(path.clone()))).unwrap();
        let Some((mode, content)) = mode(&disk, "var/task/d/f") else { return };
        assert_eq!((mode, content.len()), (0o640, 8000), "{script}");
    }
}

#[test]
fn encrypted_entries_are_refused_by_name() {
    // The general purpose flag of an otherwise sound archive, set in both headers.
    let directory = tempfile::tempdir().unwrap();
    let path = zip(directory.path().join("code.zip"), |zip| add(zip, "secret", b"x", stored()));
    let mut bytes = fs::read(&path).unwrap();
    let central = bytes.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
    bytes[6] |= 1;
    bytes[central + 8] |= 1;
    fs::write(&path, bytes).unwrap();
    let refused = stage(directory.path(), &function(CodeSource::Zip(path))).unwrap_err();
    assert!(matches!(entry_error(refused), ("secret", EntryError::Encrypted)));
}

#[test]
fn what_is_no_zip_file_is_said_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("code.zip");
    let message = |path: &Path| {
        let source = function(CodeSource::Zip(path.to_owned()));
        let error = stage(directory.path(), &source).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        error
    };
    let missing = message(&path);
    assert!(matches!(missing, StageError::Code { source: CodeError::Read(_), .. }));
    fs::write(&path, "no zip file at all").unwrap();
    assert!(matches!(message(&path), StageError::Code { source: CodeError::Zip(_), .. }));
    // The content does not match its checksum.
    let sound = zip(path.clone(), |zip| add(zip, "f", b"content", stored()));
    let mut bytes = fs::read(sound).unwrap();
    let at = bytes.windows(7).position(|part| part == b"content").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(
        message(&path),
        StageError::Code { source: CodeError::ReadEntry { name, .. }, .. } if name == "f"
    ));
}

#[test]
fn a_function_without_code_has_its_directories() {
    let directory = tempfile::tempdir().unwrap();
    let source = FunctionSource { code: None, ..function(CodeSource::Zip(PathBuf::new())) };
    let disk = stage(directory.path(), &source).unwrap();
    let Some(mounted) = Mounted::new(disk.path()) else { return };
    let paths: Vec<_> = tree(mounted.path()).into_keys().skip(1).collect();
    assert_eq!(paths, [&b"opt"[..], b"var", b"var/task"]);
}

#[test]
fn the_init_disk_is_small_and_executable() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    fs::write(&agent, [1; 100_000]).unwrap();
    let stager = Stager::open(&directory.path().join("cache")).unwrap();
    let disk = stager.init_block(&agent).unwrap();
    assert!(fs::metadata(disk.path()).unwrap().len() < 1 << 20);
    assert!(!stager.init_block(&agent).unwrap().built());
    if let Some((mode, content)) = mode(&disk, "sbin/vminitd") {
        assert_eq!((mode, content.len()), (0o755, 100_000));
    }
}

#[test]
fn a_scratch_disk_can_be_written_and_grown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scratch");
    create_scratch(&path, 64 << 20).unwrap();
    check(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let target = directory.path().join("mounted");
    fs::create_dir(&target).unwrap();
    let mount =
        std::process::Command::new("mount").args(["-o", "loop"]).arg(&path).arg(&target).status();
    if !mount.is_ok_and(|status| status.success()) {
        return;
    }
    for n in 0..500 {
        fs::write(target.join(format!("upper/{n}")), vec![1; 20_000]).unwrap();
    }
    support::unmount(&target);
    check(&path);
}

//! What cannot work is told with its name and what to do, with exit code 1 or 2, and leaves
//! nothing behind.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use costrel_tests::{
    Costrel, Home, Run, installation, kernel, kvm_works, processes_below, python_image,
    rust_function, skipped,
};

/// Runs it in a home of its own; afterwards there is no sandbox, no draft and no process.
fn refused(code: i32, says: &[&str], call: impl FnOnce(&Home) -> Costrel) -> Run {
    let home = Home::private();
    let run = call(&home).run();
    assert_eq!(run.code, Some(code), "{run:#?}");
    assert_eq!(run.stdout, "", "{run:#?}");
    assert!(run.stderr.lines().any(|line| line.starts_with("error: ")), "{run:#?}");
    for text in says {
        assert!(run.stderr.contains(text), "{text:?} is not said: {run:#?}");
    }
    clean(&home);
    run
}

fn clean(home: &Home) {
    let entries = |path: PathBuf| {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    assert_eq!(entries(home.sandboxes()).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    for store in [
        "cache/costrel/rootfs",
        "cache/costrel/functions",
        "cache/costrel/init",
        "data/costrel/images/blobs",
    ] {
        let drafts: Vec<_> = entries(home.path().join(store).join(".drafts")).collect();
        assert_eq!(drafts, Vec::<PathBuf>::new());
    }
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
}

fn invoke_code(home: &Home, code: &Path) -> Costrel {
    Costrel::new(
        home,
        ["invoke", "--runtime", "provided.al2023", "--code", &code.to_string_lossy()],
    )
}

fn zip(directory: &Path, entries: &[(&str, &[u8])]) -> PathBuf {
    let path = directory.join("function.zip");
    let script = "import sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
        for name, file in zip(sys.argv[2::2], sys.argv[3::2]): z.writestr(name, open(file, 'rb').read())\n\
        z.close()";
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).arg(&path);
    for (index, (name, content)) in entries.iter().enumerate() {
        let file = directory.join(format!("content{index}"));
        fs::write(&file, content).unwrap();
        command.arg(name).arg(file);
    }
    assert!(command.status().expect("python3 is not installed").success());
    path
}

#[test]
fn a_missing_or_corrupt_zip() {
    refused(2, &["/nowhere/function.zip", "No such file"], |home| {
        invoke_code(home, Path::new("/nowhere/function.zip"))
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.zip");
    fs::write(&path, "this is no zip file").unwrap();
    refused(1, &["broken.zip"], |home| invoke_code(home, &path));
    let whole = zip(directory.path(), &[("bootstrap", &[b'x'; 5000])]);
    let mut bytes = fs::read(&whole).unwrap();
    // In the middle of the entry's data.
    bytes[45] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    refused(1, &["broken.zip", "bootstrap"], |home| invoke_code(home, &path));
}

#[test]
fn a_zip_that_leaves_its_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = zip(directory.path(), &[("bootstrap", b"x"), ("../../etc/passwd", b"x")]);
    refused(1, &["function.zip", "../../etc/passwd"], |home| invoke_code(home, &path));
}

#[test]
fn a_zip_that_unpacks_to_more_than_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = zip(directory.path(), &[("bootstrap", b"x"), ("zeros", &vec![0; 300 << 20])]);
    refused(1, &["function.zip", "262144000"], |home| invoke_code(home, &path));
}

#[test]
fn a_layer_that_is_not_there() {
    refused(2, &["/nowhere/layer.zip"], |home| {
        Costrel::rust_case(home, "{}").with(["--layer", "/nowhere/layer.zip"])
    });
}

#[test]
fn an_image_that_is_not_there() {
    // Nobody listens on port 1.
    refused(1, &["127.0.0.1:1/nothing"], |home| {
        Costrel::new(home, ["invoke", "--image", "127.0.0.1:1/nothing:latest"])
    });
    refused(1, &["/nowhere"], |home| Costrel::new(home, ["invoke", "--image", "oci:/nowhere"]));
    refused(2, &["UPPER"], |home| Costrel::new(home, ["invoke", "--image", "127.0.0.1:1/UPPER"]));
    refused(1, &["127.0.0.1:1/x"], |home| Costrel::new(home, ["image", "rm", "127.0.0.1:1/x"]));
}

/// A copy of the Python image's layout, free to be spoilt.
fn layout_copy(directory: &Path) -> PathBuf {
    let copy = directory.join("layout");
    assert!(
        Command::new("cp").arg("-r").arg(python_image()).arg(&copy).status().unwrap().success()
    );
    copy
}

fn largest_blob(layout: &Path) -> PathBuf {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten();
    blobs.max_by_key(|blob| blob.metadata().unwrap().len()).unwrap().path()
}

#[test]
fn a_blob_whose_digest_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout_copy(directory.path());
    let blob = largest_blob(&layout);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
    refused(1, &[&name], |home| {
        Costrel::new(home, ["invoke", "--image", &format!("oci:{}", layout.display())])
    });
}

/// Damage that comes to the store after the image did is mended without a word from anybody.
#[test]
fn a_blob_that_rots_in_the_store() {
    let home = Home::private();
    let invoke = || Costrel::python_case(&home, "cases.echo", "{}").run();
    assert_eq!(invoke().code, Some(0));
    fs::remove_dir_all(home.path().join("cache/costrel/rootfs")).unwrap();
    let blobs = fs::read_dir(home.path().join("data/costrel/images/blobs")).unwrap().flatten();
    let blob = blobs
        .filter(|blob| blob.file_type().unwrap().is_file())
        .max_by_key(|blob| blob.metadata().unwrap().len())
        .unwrap()
        .path();
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let run = invoke();
    assert_eq!(run.code, Some(0), "{run:#?}");
    bytes[middle] ^= 1;
    assert!(fs::read(&blob).unwrap() == bytes, "the blob was fetched again");
}

#[test]
fn an_image_for_another_architecture() {
    let run = refused(1, &["linux/amd64"], |home| {
        let layout = python_image();
        Costrel::new(
            home,
            ["image", "import", &layout.to_string_lossy(), "x/y", "--platform", "linux/s390x"],
        )
    });
    assert!(run.stderr.contains("linux/s390x"), "{run:#?}");
}

#[test]
fn what_makes_no_sense() {
    let rust = |options: &'static [&'static str]| {
        move |home: &Home| Costrel::rust_case(home, "{}").with(options)
    };
    refused(2, &["python2.7", "python3.12"], |home| {
        Costrel::new(home, ["invoke", "--runtime", "python2.7", "--code", "."])
    });
    refused(2, &["--code"], |home| Costrel::new(home, ["invoke", "--runtime", "python3.12"]));
    refused(2, &["--runtime", "--image"], |home| Costrel::new(home, ["invoke"]));
    refused(2, &["127 MB", "between 128 and 10240 MB"], rust(&["--memory", "127"]));
    refused(2, &["901 s"], rust(&["--timeout", "901"]));
    refused(2, &["511 MB"], rust(&["--tmp-size", "511"]));
    refused(2, &["AWS_LAMBDA_RUNTIME_API"], rust(&["-e", "AWS_LAMBDA_RUNTIME_API=x"]));
    refused(2, &["not JSON"], |home| Costrel::rust_case(home, "{"));
    refused(2, &["/nowhere/event.json"], |home| Costrel::rust_case(home, "@/nowhere/event.json"));
    refused(2, &["COSTREL_BACKEND"], |home| {
        Costrel::rust_case(home, "{}").env("COSTREL_BACKEND", "fast")
    });
    refused(2, &["config.toml", "unknown"], |home| {
        let config = home.path().join("config/costrel");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("config.toml"), "[unknown]\n").unwrap();
        Costrel::rust_case(home, "{}")
    });
}

#[test]
fn no_qemu_and_no_kvm() {
    let without = |costrel: Costrel| costrel.env("PATH", "/nowhere").env("COSTREL_BACKEND", "auto");
    if kvm_works() {
        return skipped("a machine without a KVM that works");
    }
    refused(1, &["qemu-system-x86", "apt install"], |home| without(Costrel::rust_case(home, "{}")));
    let run = without(Costrel::new(&Home::private(), ["doctor"])).run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stdout.contains("!!  QEMU"), "{run:#?}");
}

#[test]
fn a_backend_that_cannot_be_had() {
    if kvm_works() {
        return skipped("a machine without a KVM that works");
    }
    let says = ["the KVM backend was asked for, and cannot be had: ", "/dev/kvm"];
    refused(1, &says, |home| Costrel::rust_case(home, "{}").env("COSTREL_BACKEND", "kvm"));
}

/// One who may not open /dev/kvm is told who may, and gets emulation where nothing else is asked for.
#[test]
fn a_kvm_that_is_for_others() {
    const NOBODY: u32 = 65534;
    let nobody = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    };
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/kvm").exists() {
        return skipped("root, who can become somebody else, and /dev/kvm");
    }
    let opens = nobody(Path::new("/bin/sh")).args(["-c", ": <>/dev/kvm"]).output().unwrap();
    if opens.status.success() {
        return skipped("a /dev/kvm that not everybody may open");
    }
    let home = Home::private();
    chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // An installation, and a function, where that user can reach them.
    let copied = |from: &Path, to: &str| {
        let to = home.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
        to
    };
    for name in ["lib/costrel/vminitd", "lib/costrel/costrel-vmm", "lib/costrel/vmlinux"] {
        copied(&installation().join(name), name);
    }
    let program = copied(&installation().join("bin/costrel"), "bin/costrel");
    let function = copied(&rust_function(), "function.zip");
    let costrel = |backend: &str, arguments: &[&str]| -> Output {
        let mut command = nobody(&program);
        command.env("HOME", home.path()).env("COSTREL_BACKEND", backend).args(arguments);
        command.output().unwrap()
    };
    let invoke =
        ["invoke", "--runtime", "provided.al2023", "--code", function.to_str().unwrap(), "{}"];
    let refused = costrel("kvm", &invoke);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains("cannot be had: /dev/kvm is for "), "{error}");
    assert!(
        error.contains("; join the group ") || error.contains("; give a group access"),
        "{error}"
    );

    let doctor = String::from_utf8(costrel("auto", &["doctor"]).stdout).unwrap();
    assert!(doctor.contains("--  KVM      /dev/kvm is for "), "{doctor}");
    assert!(doctor.contains("ok  backend  emulated, since KVM cannot be used here"), "{doctor}");
    // In a machine that is emulated itself, emulation takes minutes.
    if !kvm_works() {
        let run = costrel("auto", &invoke);
        assert!(run.status.success(), "{run:?}");
    }
}

#[test]
fn a_kernel_that_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinux");
    refused(1, &["vmlinux"], |home| {
        Costrel::rust_case(home, "{}").with(["--kernel", &path.to_string_lossy()])
    });
    fs::write(&path, "no ELF file. ".repeat(1000)).unwrap();
    refused(1, &["vmlinux", "ELF"], |home| {
        Costrel::rust_case(home, "{}").with(["--kernel", &path.to_string_lossy()])
    });
}

#[test]
fn a_kernel_that_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinux");
    let call = |home: &Home| {
        let kernel = path.to_string_lossy();
        Costrel::rust_case(home, "{}").with(["--memory", "128", "--kernel", &kernel])
    };
    let whole = fs::read(kernel()).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(1, &["vmlinux is not a bootable kernel", "truncated"], call);
    fs::write(&path, &whole[..40]).unwrap();
    refused(1, &["vmlinux is not a bootable kernel"], call);
    fs::write(&path, "").unwrap();
    refused(1, &["vmlinux is not a bootable kernel"], call);

    // Its first segment claims 8 GiB.
    let mut greedy = whole;
    let headers = usize::from_le_bytes(greedy[32..40].try_into().unwrap());
    let loads = |at: &usize| greedy[*at..*at + 4] == 1_u32.to_le_bytes();
    let first = (headers..).step_by(56).find(loads).unwrap();
    greedy[first + 40..first + 48].copy_from_slice(&(8_u64 << 30).to_le_bytes());
    fs::write(&path, &greedy).unwrap();
    refused(1, &["vmlinux needs 82", "MiB of memory for itself alone, and the machine has "], call);
}

#[test]
fn a_guest_with_the_least_memory_boots() {
    let home = Home::private();
    let run = Costrel::rust_case(&home, r#"{"case":"hello"}"#).with(["--memory", "128"]).run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    clean(&home);
}

/// A guest whose first process ends at once: the kernel panics.
#[test]
fn a_guest_that_panics() {
    refused(1, &["kernel panicked", "Attempted to kill init"], |home| {
        Costrel::rust_case(home, "{}")
            .env("COSTREL_VMINITD", static_program(home.path(), "int main(void) { return 3; }"))
    });
}

#[test]
fn a_guest_whose_agent_never_answers() {
    refused(1, &["did not answer within 3 s"], |home| {
        let program = static_program(
            home.path(),
            "#include <unistd.h>\nint main(void) { for (;;) pause(); }",
        );
        Costrel::rust_case(home, "{}")
            .env("COSTREL_VMINITD", program)
            .env("COSTREL_BOOT_TIMEOUT", "3")
    });
}

fn static_program(directory: &Path, source: &str) -> PathBuf {
    let (code, program) = (directory.join("init.c"), directory.join("init"));
    fs::write(&code, source).unwrap();
    let status = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&code).status();
    assert!(status.expect("cc is not installed").success());
    program
}

/// The cache on a file system of 12 MB: the image's disk needs more, the agent's does not.
#[test]
fn no_space_on_the_disk() {
    let home = Home::private();
    let cache = home.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let mount = |arguments: &[&str]| Command::new("mount").args(arguments).arg(&cache).output();
    let mounted = mount(&["-t", "tmpfs", "-o", "size=12m", "tmpfs"]);
    if !mounted.is_ok_and(|output| output.status.success()) {
        skipped("it takes root to mount a small tmpfs");
        return;
    }
    let run = Costrel::python_case(&home, "cases.echo", "{}").run();
    let left = fs::read_dir(cache.join("costrel/rootfs")).unwrap().flatten();
    let left: Vec<_> =
        left.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).collect();
    let unmounted = Command::new("umount").arg(&cache).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains("No space left on device"), "{run:#?}");
    assert!(left.is_empty(), "{left:?}");
}

#!/usr/bin/env python3
"""Checks, as root inside a guest, that the kernel has what guests need.

One line a check, "ok" or "FAIL"; exits 1 when one failed. Needs /proc and /sys
mounted, a writable /tmp, and nothing but Python's standard library.
"""

import ctypes
import errno
import fcntl
import os
import platform
import pty
import socket
import struct
import sys
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def call(result):
    """The result of a libc function, or its errno as an exception."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def syscall(number, *arguments):
    return call(libc.syscall(ctypes.c_long(number), *arguments))


def mount(source, target, kind, options=""):
    call(libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode() or None))


def umount(target):
    call(libc.umount2(target.encode(), 2))


def in_child(function):
    """Runs it in a process of its own, for what cannot be undone."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
        except BaseException:
            os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, errno.errorcode.get(code, code)


@check
def file_systems():
    known = {line.split()[-1] for line in open("/proc/filesystems")}
    missing = {"ext4", "overlay", "tmpfs", "cgroup2", "fuse", "virtiofs", "devtmpfs", "mqueue", "binfmt_misc", "devpts"} - known
    assert not missing, missing


@check
def overlay_on_tmpfs_with_xattrs():
    with tempfile.TemporaryDirectory() as base:
        mount("tmpfs", base, "tmpfs", "size=1m")
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{base}/{name}")
        open(f"{base}/lower/file", "w").write("below")
        mount("overlay", f"{base}/merged", "overlay", f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work")
        try:
            open(f"{base}/merged/file", "a").write(" and above")
            assert open(f"{base}/upper/file").read() == "below and above"
            os.setxattr(f"{base}/merged/file", "user.tag", b"1")
            os.setxattr(f"{base}/merged/file", "security.capability", struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0))
        finally:
            umount(f"{base}/merged")
            umount(base)


@check
def cgroup2():
    with tempfile.TemporaryDirectory() as base:
        mount("cgroup2", base, "cgroup2")
        try:
            missing = {"cpuset", "cpu", "io", "memory", "pids"} - set(open(f"{base}/cgroup.controllers").read().split())
            assert not missing, missing
            open(f"{base}/cgroup.subtree_control", "w").write("+memory +pids +cpu")
            os.mkdir(f"{base}/one")
            for file in ("memory.peak", "memory.events", "memory.oom.group", "pids.max", "cpu.max", "cgroup.kill", "cgroup.freeze", "cpu.pressure"):
                assert os.path.exists(f"{base}/one/{file}"), file
            os.rmdir(f"{base}/one")
        finally:
            umount(base)


@check
def namespaces():
    # uts, ipc, pid, net, mnt, cgroup, time, user
    in_child(lambda: call(libc.unshare(0x04000000 | 0x08000000 | 0x20000000 | 0x40000000 | 0x00020000 | 0x02000000 | 0x00000080)))
    in_child(lambda: call(libc.unshare(0x10000000)))


@check
def pressure():
    for name in ("cpu", "io", "memory"):
        assert "avg10" in open(f"/proc/pressure/{name}").read()


@check
def seccomp_filter():
    def run():
        call(libc.prctl(38, 1, 0, 0, 0))  # no_new_privs
        allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
        code = ctypes.create_string_buffer(allow)
        program = struct.pack("<HxxxxxxQ", 1, ctypes.addressof(code))
        call(libc.prctl(22, 2, program))
    in_child(run)


@check
def landlock():
    assert syscall(444, None, 0, 1) >= 1


@check
def io_uring():
    os.close(syscall(425, 4, ctypes.create_string_buffer(120)))


@check
def userfaultfd():
    os.close(syscall(323, 0))


@check
def memfd():
    os.close(os.memfd_create("x", os.MFD_ALLOW_SEALING))


@check
def watches():
    os.close(call(libc.inotify_init1(0)))
    os.close(call(libc.fanotify_init(0, 0)))


@check
def pidfd_and_clone3():
    os.close(os.pidfd_open(os.getpid()))
    try:
        syscall(435, None, 0)
    except OSError as error:
        assert error.errno == errno.EINVAL, error


@check
def kernel_keyring():
    assert syscall(250, 0, -1, 1)  # keyctl: get the thread's keyring


@check
def system_v_and_posix_ipc():
    identifier = call(libc.shmget(0, 4096, 0o1600))
    call(libc.shmctl(identifier, 0, None))
    with tempfile.TemporaryDirectory() as base:
        mount("mqueue", base, "mqueue")
        umount(base)


@check
def pseudo_terminals():
    try:
        first, second = pty.openpty()
    except OSError:
        os.makedirs("/dev/pts", exist_ok=True)
        mount("devpts", "/dev/pts", "devpts", "newinstance,ptmxmode=0666")
        first = os.open("/dev/pts/ptmx", os.O_RDWR)
        second = os.open("/dev/null", os.O_RDWR)
    os.close(first)
    os.close(second)


@check
def device_nodes():
    for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun", "loop-control", "vsock", "hwrng", "kmsg"):
        assert os.path.exists(f"/dev/{name}"), name


@check
def tun():
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"tun9", 0x0001))


@check
def bridge_and_veth():
    request = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    name = ctypes.create_string_buffer(b"br9", 16)
    call(libc.ioctl(request.fileno(), 0x89A0, name))
    call(libc.ioctl(request.fileno(), 0x89A1, name))

    def attribute(kind, data):
        return struct.pack("<HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)

    link = attribute(18, attribute(1, b"veth"))
    body = struct.pack("<BxHiII", 0, 0, 0, 0, 0) + link
    message = struct.pack("<IHHII", 16 + len(body), 16, 0x605, 1, 0) + body
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    netlink.send(message)
    code = struct.unpack_from("<i", netlink.recv(4096), 16)[0]
    assert code == 0, errno.errorcode.get(-code, code)


@check
def loopback_addresses():
    request = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(request, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # up
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        server = socket.create_server((address, 0), family=family)
        client = socket.create_connection(server.getsockname()[:2])
        client.close()
        server.close()
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    group = socket.inet_aton("239.1.1.1") + socket.inet_aton("127.0.0.1")
    request.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)


@check
def vsock_loopback():
    server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    server.bind((socket.VMADDR_CID_ANY, 5000))
    server.listen()
    client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    client.connect((1, 5000))
    client.sendall(b"x")
    assert server.accept()[0].recv(1) == b"x"


@check
def virtio_drivers():
    missing = {f"virtio_{name}" for name in ("blk", "net", "console", "rng", "balloon", "vsock")}
    for name in os.listdir("/sys/bus/virtio/drivers"):
        missing.discard({"vmw_vsock_virtio_transport": "virtio_vsock", "virtio_vsock": "virtio_vsock"}.get(name, name))
    assert not missing, (missing, os.listdir("/sys/bus/virtio/drivers"))


@check
def sysrq_can_crash():
    assert os.access("/proc/sysrq-trigger", os.W_OK)


def main():
    print(f"kernel {platform.release()}, {os.cpu_count()} CPUs")
    failed = 0
    for function in CHECKS:
        try:
            function()
            print("ok  ", function.__name__)
        except (OSError, AssertionError, ValueError) as error:
            failed += 1
            print("FAIL", function.__name__, error)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

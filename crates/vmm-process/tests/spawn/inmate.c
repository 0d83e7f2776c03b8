/* Tells, on standard error, what a process in the jail finds. Static; built by the tests. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell_open(const char *name, const char *path, int flags) {
    int fd = open(path, flags, 0600);
    fprintf(stderr, "%s %s\n", name, fd < 0 ? strerrorname_np(errno) : "opened");
    if (fd >= 0) close(fd);
}

static void tell_limit(const char *name, int resource) {
    struct rlimit limit;
    getrlimit(resource, &limit);
    fprintf(stderr, "%s %lu %lu\n", name, limit.rlim_cur, limit.rlim_max);
}

static int processes(void) {
    DIR *proc = opendir("/proc");
    if (!proc) return -errno;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(proc));)
        count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    return count;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "sleep")) {
        for (;;) pause();
    }
    if (argc > 1 && !strcmp(argv[1], "allocate")) {
        for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    }
    if (argc > 1 && !strcmp(argv[1], "multiply")) {
        int count = 0;
        while (fork() > 0) count++;
        if (getpid() != 1) for (;;) pause();
        fprintf(stderr, "multiplied %d %s\n", count, strerrorname_np(errno));
        return 7;
    }
    fprintf(stderr, "uid %u %u\n", getuid(), geteuid());
    fprintf(stderr, "gid %u groups %d\n", getgid(), getgroups(0, NULL));
    fprintf(stderr, "pid %d ppid %d leads %d\n", getpid(), getppid(), getsid(0) == getpid());
    fprintf(stderr, "nnp %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    fprintf(stderr, "environment %d\n", !!environ[0]);

    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {0};
    syscall(SYS_capget, &header, caps);
    fprintf(stderr, "capabilities %x\n",
            caps[0].effective | caps[1].effective | caps[0].permitted | caps[1].permitted |
            caps[0].inheritable | caps[1].inheritable);
    int bounding = 0;
    for (int cap = 0; cap < 64; cap++) bounding += prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1;
    fprintf(stderr, "bounding %d\n", bounding);

    tell_open("passwd", "/etc/passwd", O_RDONLY);
    tell_open("linker", "/etc/ld.so.cache", O_RDONLY);
    tell_open("root", "/", O_RDONLY | O_DIRECTORY);
    tell_open("shell", "/bin/sh", O_RDONLY);
    tell_open("create", "/costrel-test", O_WRONLY | O_CREAT);
    tell_open("temporary", "/tmp/costrel-test", O_WRONLY | O_CREAT);
    tell_open("self", "/proc/self/maps", O_RDONLY);
    if (argc > 1) tell_open("other", argv[1], O_RDONLY);
    tell_open("null", "/dev/null", O_RDWR);
    if (argc > 2) tell_open("reopened", argv[2], O_RDONLY);
    if (argc > 3) fprintf(stderr, "signal %s\n", kill(atoi(argv[3]), 0) ? strerrorname_np(errno) : "sent");
    fprintf(stderr, "processes %d\n", processes());

    struct if_nameindex *interfaces = if_nameindex();
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (struct if_nameindex *i = interfaces; i && i->if_index; i++) {
        struct ifreq request = {0};
        strncpy(request.ifr_name, i->if_name, IFNAMSIZ - 1);
        ioctl(sock, SIOCGIFFLAGS, &request);
        fprintf(stderr, "interface %s %s\n", i->if_name, request.ifr_flags & IFF_UP ? "up" : "down");
    }
    close(sock);

    fprintf(stderr, "descriptors");
    for (int fd = 0; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0) fprintf(stderr, " %d", fd);
    fprintf(stderr, "\n");
    tell_limit("core", RLIMIT_CORE);
    tell_limit("files", RLIMIT_NOFILE);
    tell_limit("size", RLIMIT_FSIZE);
    tell_limit("threads", RLIMIT_NPROC);
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    struct sigaction pipe;
    sigaction(SIGPIPE, NULL, &pipe);
    fprintf(stderr, "signals %d %d\n", sigismember(&blocked, SIGTERM), pipe.sa_handler == SIG_DFL);
    return 7;
}

/* The guest of the tests, as PID 1: says "ready" on its port, then echoes line by line, except
 * those lines that are commands. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

static int read_file(const char *path, char *text, int room) {
    int fd = open(path, O_RDONLY);
    int count = fd < 0 ? -1 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[count > 0 ? count : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return count;
}

static int open_port(const char *wanted) {
    DIR *ports = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    while (ports && (entry = readdir(ports))) {
        char path[600], name[100];
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        if (read_file(path, name, sizeof name) > 0 && !strcmp(name, wanted)) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            return open(path, O_RDWR);
        }
    }
    return -1;
}

static void answer(int port, char *line) {
    if (!strcmp(line, "!reboot")) {
        reboot(RB_AUTOBOOT);
    } else if (!strcmp(line, "!poweroff")) {
        reboot(RB_POWER_OFF);
    } else if (!strcmp(line, "!halt")) {
        reboot(RB_HALT_SYSTEM);
    } else if (!strcmp(line, "!panic")) {
        exit(7);
    } else if (!strcmp(line, "!flood")) {
        static char bytes[1 << 12];
        int console = open("/dev/console", O_WRONLY);
        memset(bytes, 'x', sizeof bytes);
        bytes[sizeof bytes - 1] = '\n';
        for (int i = 0; i < 64; i++)
            write(console, bytes, sizeof bytes);
        close(console);
        dprintf(port, "flooded\n");
    } else if (!strcmp(line, "!disks")) {
        for (char letter = 'a'; letter < 'z'; letter++) {
            char path[64], serial[64], ro[8];
            snprintf(path, sizeof path, "/sys/block/vd%c/serial", letter);
            if (read_file(path, serial, sizeof serial) <= 0)
                break;
            snprintf(path, sizeof path, "/sys/block/vd%c/ro", letter);
            read_file(path, ro, sizeof ro);
            dprintf(port, "vd%c=%s:%s ", letter, serial, ro);
        }
        dprintf(port, "\n");
    } else if (!strncmp(line, "!write ", 7)) {
        int disk = open(line + 7, O_RDWR);
        int ok = disk >= 0 && write(disk, "written by the guest", 20) == 20 && !fsync(disk);
        dprintf(port, ok ? "ok\n" : "failed\n");
        close(disk);
    } else if (!strcmp(line, "!cat /proc/cmdline") || !strcmp(line, "!cat /proc/uptime")) {
        char text[4096];
        read_file(line + 5, text, sizeof text);
        dprintf(port, "%s\n", text);
    } else if (!strcmp(line, "!cpus")) {
        dprintf(port, "%ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    } else {
        dprintf(port, "%s\n", line);
    }
}

int main(void) {
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    mount("sysfs", "/sys", "sysfs", 0, 0);
    mount("proc", "/proc", "proc", 0, 0);
    int port = open_port("costrel.1024");
    if (port < 0) {
        printf("no port\n");
        return 1;
    }
    FILE *lines = fdopen(port, "r");
    dprintf(port, "ready\n");
    char line[1 << 16];
    for (;;) {
        if (fgets(line, sizeof line, lines)) {
            line[strcspn(line, "\n")] = 0;
            answer(port, line);
        } else {
            /* The host hung up: HUP stays set until it calls again. */
            clearerr(lines);
            usleep(1000);
        }
    }
}

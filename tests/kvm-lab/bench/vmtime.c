// vmtime: start a VMM and time what it does, by what the guest prints on the VMM's stdout.
//   vmtime [-t SECONDS] STEP... -- CMD ARGS...
// Steps run in order; the clock starts right before fork+exec:
//   --until STR   wait for STR on CMD's stdout (text up to it is consumed)
//   --drain       forget output seen so far
//   --send S F    connect to unix socket S (retrying until it exists) and write file F
//   --recv        wait for the HTTP answer to the last --send; must be 2xx
//   --lap NAME    print "NAME <time since the last lap or the start> ms"
//   --result      wait for a line "RESULT …" of CMD's, and print it
//   --memory PROGRAM  print what of that process (CMD, or below it) is resident beside the guest's
//                 memory, that is in mappings of less than 100 MiB
//   --vsock ADDRESS   speak to the guest's port 1024, where guest-init serves: by "cid:NUMBER", or by
//                 "unix:PATH", where whoever connects writes "CONNECT 1024" and hears "OK …"
// What is printed is "NAME VALUE UNIT". At the end CMD is killed (unless it has exited).  Exit 0; 1 and CMD's output on failure.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buf[1 << 20];
static size_t len;
static int out, sock = -1;
static pid_t pid;
static double deadline;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }
static void fail(const char *why) {
	fprintf(stderr, "vmtime: %s; output so far:\n%.*s\n", why, (int)len, buf);
	if (pid > 0) kill(pid, SIGKILL);
	exit(1);
}
static void fill(void) { // read what CMD says; waits until the deadline
	struct pollfd p = { out, POLLIN, 0 };
	double left = deadline - now();
	if (left <= 0 || poll(&p, 1, (int)left) <= 0) fail("timed out");
	if (len > sizeof buf / 2) { memmove(buf, buf + len / 2, len - len / 2); len -= len / 2; }
	ssize_t n = read(out, buf + len, sizeof buf - 1 - len);
	if (n <= 0) fail("the command ended");
	len += n; buf[len] = 0;
}
static void drain(void) { fcntl(out, F_SETFL, O_NONBLOCK); while (read(out, buf, sizeof buf) > 0); fcntl(out, F_SETFL, 0); len = 0; }
static void send_file(const char *path, const char *file) {
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	char b[65536]; int f = open(file, O_RDONLY); ssize_t n = read(f, b, sizeof b); close(f);
	if (n <= 0) fail(file);
	if (sock >= 0) close(sock);
	for (;;) {
		sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (!connect(sock, (void *)&a, sizeof a)) break;
		close(sock);
		if (now() > deadline) fail("socket never came up");
		usleep(500);
	}
	if (write(sock, b, n) != n) fail("send");
}
static void recv_answer(void) {
	char b[4096]; struct pollfd p = { sock, POLLIN, 0 };
	if (poll(&p, 1, (int)(deadline - now())) <= 0) fail("no answer");
	ssize_t n = read(sock, b, sizeof b - 1);
	if (n < 0) n = 0;
	b[n] = 0;
	if (n < 12 || b[9] != '2') { fprintf(stderr, "answer: %s\n", b); fail("request refused"); }
}
static pid_t parent_of(pid_t of) {
	char path[32], line[512];
	int parent = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", of);
	FILE *f = fopen(path, "r");
	if (!f) return 0;
	if (fgets(line, sizeof line, f) && strrchr(line, ')')) sscanf(strrchr(line, ')') + 1, " %*c %d", &parent);
	fclose(f);
	return parent;
}
static int is_below(pid_t process) {
	for (; process > 1; process = parent_of(process)) if (process == pid) return 1;
	return 0;
}
static void memory(const char *program) {
	char path[300], line[512], name[256];
	DIR *processes = opendir("/proc");
	long size = 0, value, rss = 0, pss = 0, found = 0;
	for (struct dirent *e; (e = readdir(processes));) {
		pid_t process = atoi(e->d_name);
		if (process <= 0 || !is_below(process)) continue;
		snprintf(path, sizeof path, "/proc/%d/comm", process);
		FILE *f = fopen(path, "r");
		if (!f || !fgets(name, sizeof name, f)) continue;
		fclose(f);
		name[strcspn(name, "\n")] = 0;
		if (strncmp(name, program, 15)) continue;
		snprintf(path, sizeof path, "/proc/%d/smaps", process);
		if (!(f = fopen(path, "r"))) fail(path);
		while (fgets(line, sizeof line, f)) {
			if (sscanf(line, "Size: %ld", &value) == 1) size = value;
			else if (size >= 100 << 10) continue;
			else if (sscanf(line, "Rss: %ld", &value) == 1) rss += value, found = 1;
			else if (sscanf(line, "Pss: %ld", &value) == 1) pss += value;
		}
		fclose(f);
	}
	closedir(processes);
	if (!found) fail("no such process, or nothing to see of it");
	printf("memory-rss %.2f MiB\nmemory-pss %.2f MiB\n", rss / 1024.0, pss / 1024.0);
}
static void whole(int fd, char *b, size_t n, int send) {
	for (ssize_t m; n; b += m, n -= m) if ((m = send ? write(fd, b, n) : read(fd, b, n)) <= 0) fail("vsock broke off");
}
static int dial(const char *address) {
	struct sockaddr_un u = { .sun_family = AF_UNIX };
	struct sockaddr_vm v = { .svm_family = AF_VSOCK, .svm_port = 1024 };
	for (char c;; usleep(500)) {
		int fd;
		if (!strncmp(address, "cid:", 4)) {
			v.svm_cid = atoi(address + 4);
			if (!connect(fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), (void *)&v, sizeof v)) return fd;
		} else {
			strncpy(u.sun_path, address + 5, sizeof u.sun_path - 1);
			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
			if (!connect(fd, (void *)&u, sizeof u) && write(fd, "CONNECT 1024\n", 13) == 13) {
				while (read(fd, &c, 1) == 1) if (c == '\n') return fd;
			}
		}
		close(fd);
		if (now() > deadline) fail("nobody answers by vsock");
	}
}
static void vsock(const char *address) {
	enum { ROUNDS = 200, BULK = 32 << 20 };
	static char chunk[1 << 20], message[64];
	int fd = dial(address);
	double began = 0;
	for (int i = -20; i < ROUNDS; i++) {
		if (!i) began = now();
		message[0] = 'p';
		whole(fd, message, 64, 1);
		whole(fd, message, 64, 0);
	}
	printf("vsock-round-trip %.1f us\n", (now() - began) * 1e3 / ROUNDS);
	message[0] = 'b';
	began = now();
	whole(fd, message, 64, 1);
	for (int i = 0; i < BULK / (1 << 20); i++) whole(fd, chunk, 1 << 20, 1);
	whole(fd, message, 64, 0);
	printf("vsock-to-guest %.0f MiB/s\n", (BULK >> 20) * 1e3 / (now() - began));
	close(fd);
}
int main(int argc, char **argv) {
	double limit = 60; int i, fds[2], cmd = 1;
	while (cmd < argc && strcmp(argv[cmd], "--")) cmd++;
	if (cmd >= argc - 1) { fprintf(stderr, "usage: vmtime [-t S] STEP... -- CMD...\n"); return 2; }
	argv[cmd] = NULL;
	signal(SIGPIPE, SIG_IGN);
	if (pipe2(fds, O_CLOEXEC)) return 2;
	fcntl(fds[0], F_SETPIPE_SZ, 1 << 20);
	double last = now();
	if (!(pid = vfork())) { dup2(fds[1], 1); execvp(argv[cmd + 1], argv + cmd + 1); _exit(127); }
	close(fds[1]); out = fds[0]; deadline = last + limit * 1e3;
	for (i = 1; i < cmd; i++) {
		if (!strcmp(argv[i], "-t")) deadline = last + atof(argv[++i]) * 1e3;
		else if (!strcmp(argv[i], "--until")) {
			char *at, *str = argv[++i];
			while (!(at = memmem(buf, len, str, strlen(str)))) fill();
			at += strlen(str); len -= at - buf; memmove(buf, at, len);
		}
		else if (!strcmp(argv[i], "--drain")) drain();
		else if (!strcmp(argv[i], "--send")) { send_file(argv[i + 1], argv[i + 2]); i += 2; }
		else if (!strcmp(argv[i], "--recv")) recv_answer();
		else if (!strcmp(argv[i], "--lap")) { double t = now(); printf("%s %.2f ms\n", argv[++i], t - last); last = now(); }
		else if (!strcmp(argv[i], "--result")) {
			char *at, *end;
			while (!(at = memmem(buf, len, "RESULT ", 7)) || !(end = memchr(at, '\n', buf + len - at))) fill();
			printf("%.*s\n", (int)strcspn(at + 7, "\r\n"), at + 7);
			len -= end - buf; memmove(buf, end, len);
		}
		else if (!strcmp(argv[i], "--memory")) memory(argv[++i]);
		else if (!strcmp(argv[i], "--vsock")) vsock(argv[++i]);
		else fail(argv[i]);
	}
	fflush(stdout);
	kill(pid, SIGKILL); waitpid(pid, NULL, 0);
	return 0;
}

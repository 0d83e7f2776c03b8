// The guest's first process, for the benches; no libc. It prints GUEST-UP, then does what is asked for
// on the kernel's command line: "dmesg" prints the kernel's log, "blocks" reads /dev/vdb, "serve"
// serves vmtime's --vsock, "ticks" prints "tick N" every 2 ms for ever, "stay" waits for ever. Results
// are lines "RESULT name value unit". Otherwise it resets the machine.
#define MIB (1l << 20)

enum { READ, WRITE, OPEN, CLOSE, PREAD = 17, NANOSLEEP = 35, PAUSE = 34, SOCKET = 41, ACCEPT = 43, BIND = 49,
	LISTEN, SYSLOG = 103, REBOOT = 169, CLOCK = 228 };

static char text[1 << 20] __attribute__((aligned(4096)));

static long sc(long n, long a, long b, long c, long d) {
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}

static int is(const char *a, const char *b) {
	while (*a && *a == *b) a++, b++;
	return *a == *b;
}

static char *put(char *to, const char *what) {
	while (*what) *to++ = *what++;
	return to;
}

static char *number(char *to, unsigned long value) {
	char digits[20];
	int n = 0;
	do digits[n++] = '0' + value % 10; while (value /= 10);
	while (n) *to++ = digits[--n];
	return to;
}

static void say(const char *before, unsigned long value, const char *after) {
	char line[128], *end = put(number(put(line, before), value), after);
	sc(WRITE, 1, (long)line, end - line, 0);
}

static long nanoseconds(void) {
	long time[2];
	sc(CLOCK, 1, (long)time, 0, 0);
	return time[0] * 1000000000 + time[1];
}

// The disk must be at least 64 MiB. Past the page cache: O_DIRECT.
static void blocks(void) {
	long fd = sc(OPEN, (long)"/dev/vdb", 040000, 0, 0), began = nanoseconds(), at = 0, n;
	while (at < 64 * MIB && (n = sc(PREAD, fd, (long)text, MIB, at)) > 0) at += n;
	if (at == 64 * MIB) say("RESULT read-1MiB ", at * 1000 / ((nanoseconds() - began) * 1048576 / 1000000), " MiB/s\n");
	unsigned random = 1;
	began = nanoseconds();
	for (n = 0; n < 256; n++) {
		random = random * 1664525 + 1013904223;
		if (sc(PREAD, fd, (long)text, 4096, (random >> 10) % 16384 * 4096) != 4096) return;
	}
	say("RESULT read-4KiB ", (nanoseconds() - began) / n / 1000, " us\n");
}

// For each message of 64 bytes: "p…" comes back; "b…" announces 32 MiB, and comes back after them.
static void serve(void) {
	struct { unsigned short family, reserved; unsigned port, cid, flags; } address = { 40, 0, 1024, -1u, 0 };
	long listener = sc(SOCKET, 40, 1, 0, 0), fd, n, at;
	if (sc(BIND, listener, (long)&address, sizeof address, 0) || sc(LISTEN, listener, 1, 0, 0)) return;
	sc(WRITE, 1, (long)"SERVING\n", 8, 0);
	while ((fd = sc(ACCEPT, listener, 0, 0, 0)) >= 0) {
		char message[64];
		for (;;) {
			for (at = 0; at < 64 && (n = sc(READ, fd, (long)message + at, 64 - at, 0)) > 0; at += n) ;
			if (at < 64) break;
			for (at = 0; message[0] == 'b' && at < 32 * MIB && (n = sc(READ, fd, (long)text, sizeof text, 0)) > 0; at += n) ;
			sc(WRITE, fd, (long)message, 64, 0);
		}
		sc(CLOSE, fd, 0, 0, 0);
	}
}

void start(long *sp) {
	sc(WRITE, 1, (long)"GUEST-UP\n", 9, 0);
	for (char **argument = (char **)(sp + 1); *argument; argument++) {
		if (is(*argument, "dmesg")) sc(WRITE, 1, (long)text, sc(SYSLOG, 3, (long)text, sizeof text, 0), 0);
		if (is(*argument, "blocks")) blocks();
		if (is(*argument, "serve")) serve();
		for (long n = 0; is(*argument, "ticks"); n++) {
			long pause[2] = { 0, 2000000 };
			say("tick ", n, "\n");
			sc(NANOSLEEP, (long)pause, 0, 0, 0);
		}
		while (is(*argument, "stay")) sc(PAUSE, 0, 0, 0, 0);
	}
	sc(REBOOT, 0xfee1dead, 672274793, 0x1234567, 0);
	for (;;) ;
}
__asm__(".globl _start\n_start: mov %rsp,%rdi\n and $-16,%rsp\n call start\n");

/* load: a closed-loop load generator. N connections, one exchange in flight on each.
 *
 * support/load.py compiles and drives it. Over stdin and stdout, in native byte order, they exchange
 *
 *   in   port u32, calls u64, connections u32;
 *        greeting bytes u32, the greeting: commands that every connection begins with;
 *        for each connection: exchanges u32;
 *        for each exchange: request bytes u32, reply bytes u32, the request, the reply
 *   out  status u32: 0, connected; or 1, a message follows: bytes u32, text; then this ends
 *   in   any u32: go
 *   out  status; wall time u64, own CPU time u64; in ns
 *
 * and so on until stdin ends. A request may be a pipeline: its reply is the replies to all of it.
 * Everything is read before the clock starts. Every byte of every reply is compared.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { TIMEOUT_MS = 20000, EVENTS = 256, BUFFER_BYTES = 1 << 18, SHOWN_BYTES = 200 };

struct exchange {
    uint32_t request_bytes, reply_bytes;
    char *request, *reply;
};

struct connection {
    int fd;
    uint32_t count, turn; /* of exchanges, and which of them is in flight */
    struct exchange *exchanges;
    uint32_t received; /* bytes of its reply */
};

struct load {
    uint32_t port, count, greeting_bytes;
    uint64_t calls;
    char *greeting;
    struct connection *connections;
};

static char buffer[BUFFER_BYTES];

static void say(const void *bytes, size_t count) {
    if (fwrite(bytes, 1, count, stdout) != count) exit(1);
}

static void say_number(uint32_t number) { say(&number, sizeof number); }

/* Tells the driver why this run counts for nothing, and ends. */
__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    say_number(1);
    say_number(length < 0 ? 0 : (uint32_t)length);
    if (length > 0) say(text, (size_t)length);
    fflush(stdout);
    exit(1);
}

static void *allocated(size_t count, size_t bytes) {
    void *memory = calloc(count ? count : 1, bytes);
    if (!memory) fail("out of memory");
    return memory;
}

/* Reads so many bytes of what the driver says; between two loads it may end instead. */
static void hear(void *into, size_t bytes) {
    if (fread(into, 1, bytes, stdin) != bytes) exit(0);
}

static uint32_t hear_number(void) {
    uint32_t number;
    hear(&number, sizeof number);
    return number;
}

static char *hear_text(uint32_t bytes) {
    char *text = allocated(bytes, 1);
    hear(text, bytes);
    return text;
}

static void hear_exchanges(struct connection *one) {
    one->count = hear_number();
    one->exchanges = allocated(one->count, sizeof *one->exchanges);
    for (struct exchange *each = one->exchanges; each < one->exchanges + one->count; each++) {
        each->request_bytes = hear_number();
        each->reply_bytes = hear_number();
        each->request = hear_text(each->request_bytes);
        each->reply = hear_text(each->reply_bytes);
    }
}

static struct load hear_load(void) {
    struct load load = {0};
    load.port = hear_number();
    hear(&load.calls, sizeof load.calls);
    load.count = hear_number();
    load.greeting_bytes = hear_number();
    load.greeting = hear_text(load.greeting_bytes);
    load.connections = allocated(load.count, sizeof *load.connections);
    for (uint32_t i = 0; i < load.count; i++) hear_exchanges(&load.connections[i]);
    return load;
}

static void forget(struct load *load) {
    for (struct connection *one = load->connections; one < load->connections + load->count; one++) {
        for (uint32_t i = 0; i < one->count; i++) {
            free(one->exchanges[i].request);
            free(one->exchanges[i].reply);
        }
        free(one->exchanges);
        close(one->fd);
    }
    free(load->connections);
    free(load->greeting);
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void wait_for(int fd, short event) {
    struct pollfd waiting = {.fd = fd, .events = event};
    if (poll(&waiting, 1, TIMEOUT_MS) <= 0) fail("the server took no part for %d ms", TIMEOUT_MS);
}

static void send_all(int fd, const char *bytes, size_t count) {
    while (count) {
        ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) fail("send: %s", strerror(errno));
            wait_for(fd, POLLOUT);
            continue;
        }
        bytes += sent;
        count -= (size_t)sent;
    }
}

/* Received bytes, or -1 if there are none now. */
static ssize_t receive(int fd, char *into, size_t room) {
    ssize_t count = recv(fd, into, room, 0);
    if (count < 0 && errno == EAGAIN) return -1;
    if (count < 0) fail("recv: %s", strerror(errno));
    if (count == 0) fail("the server closed a connection");
    return count;
}

/* Connects, and says the greeting. The reply of PING comes last, whatever that answers. */
static int connected(const struct load *load) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)load->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    static const char ping[] = "*1\r\n$4\r\nPING\r\n", pong[] = "+PONG\r\n";
    char answer[4096];
    send_all(fd, load->greeting, load->greeting_bytes);
    send_all(fd, ping, strlen(ping));
    for (size_t length = 0; length < strlen(pong)
                            || memcmp(answer + length - strlen(pong), pong, strlen(pong));) {
        wait_for(fd, POLLIN);
        ssize_t count = receive(fd, answer + length, sizeof answer - length);
        if (count > 0) length += (size_t)count;
        if (answer[0] == '-' || length == sizeof answer)
            fail("the server refuses the greeting: %.*s", SHOWN_BYTES, answer);
    }
    return fd;
}

static void send_next(struct connection *one) {
    const struct exchange *next = &one->exchanges[one->turn];
    one->received = 0;
    send_all(one->fd, next->request, next->request_bytes);
}

/* Whether the reply is whole now. What came must be its next bytes, and nothing besides. */
static int replied(struct connection *one) {
    const struct exchange *own = &one->exchanges[one->turn];
    ssize_t got = receive(one->fd, buffer, sizeof buffer);
    if (got < 0) return 0;
    uint32_t left = own->reply_bytes - one->received, count = (uint32_t)got;
    const char *expected = own->reply + one->received;
    if (count > left || memcmp(buffer, expected, count))
        fail("got `%.*s` where `%.*s` was expected",
             count < SHOWN_BYTES ? (int)count : SHOWN_BYTES, buffer,
             left < SHOWN_BYTES ? (int)left : SHOWN_BYTES, expected);
    one->received += count;
    return count == left;
}

/* Makes the calls: each connection's next one as soon as it has its reply. */
static void drive(struct load *load, int poller) {
    uint64_t sent = 0, done = 0;
    struct epoll_event events[EVENTS];
    for (uint32_t i = 0; i < load->count && sent < load->calls; i++, sent++)
        send_next(&load->connections[i]);
    while (done < load->calls) {
        int ready = epoll_wait(poller, events, EVENTS, TIMEOUT_MS);
        if (ready == 0)
            fail("no reply within %d ms, %llu outstanding", TIMEOUT_MS,
                 (unsigned long long)(sent - done));
        for (int i = 0; i < ready; i++) {
            struct connection *one = events[i].data.ptr;
            if (!replied(one)) continue;
            done++;
            one->turn = (one->turn + 1) % one->count;
            if (sent < load->calls) {
                sent++;
                send_next(one);
            }
        }
    }
}

int main(void) {
    for (;;) {
        struct load load = hear_load();
        int poller = epoll_create1(EPOLL_CLOEXEC);
        for (struct connection *one = load.connections; one < load.connections + load.count; one++) {
            one->fd = connected(&load);
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
            epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &event);
        }
        say_number(0);
        fflush(stdout);
        hear_number();
        uint64_t cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID), wall_ns = now_ns(CLOCK_MONOTONIC);
        drive(&load, poller);
        wall_ns = now_ns(CLOCK_MONOTONIC) - wall_ns;
        cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
        say_number(0);
        say(&wall_ns, sizeof wall_ns);
        say(&cpu_ns, sizeof cpu_ns);
        fflush(stdout);
        close(poller);
        forget(&load);
    }
}

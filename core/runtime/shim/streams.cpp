// One chunk of output is in flight at a time: it goes to the log, then to every attached client at that
// client's own pace, and the next chunk is read when the last client has it. So memory is bounded by one
// buffer however many clients there are, and a slow client slows the process down instead of losing
// output (Docker's behaviour too). Input is the same the other way round.
#include "core/runtime/shim/streams.h"

#include <initializer_list>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace gantry::shim {
namespace {

constexpr int kClients = 64;
constexpr char kDetached[] = "exec attach failed: error on attach stdin: read escape sequence\r\n";

struct Client {
    int fd = -1;
    uint32_t flags = 0;
    size_t sent = 0; // of header + chunk
    bool pending = false, input_open = false, closing = false;
    uint32_t watched = 0;
    char keys[16];
    uint8_t key_count = 0, matched = 0;
};

Client clients[kClients];
StreamSetup io;
bool started, out_open, err_open, finishing;
char chunk[32768];
size_t chunk_size;
int chunk_stream;
char input[8192];
size_t input_at, input_size;
bool close_input;
int kept_slave = -1; // a program may close its terminal and open it again without ending the stream

void rewatch(Client &client) {
    uint32_t events =
        (client.pending ? unsigned(EPOLLOUT) : 0u) |
        (started && client.input_open && input_size == 0 && !close_input ? unsigned(EPOLLIN) : 0u);
    if (events == client.watched) return;
    client.watched = events;
    watch(client.fd, events, kTagClient + uint32_t(&client - clients), false);
}

void drop(Client &client, bool gracefully) {
    if (client.fd < 0) return;
    unwatch(client.fd);
    if (gracefully) {
        shutdown(client.fd, SHUT_WR);
        // Closing with unread input would turn the peer's end of file into a reset.
        static char ignored[512];
        for (int i = 0; i < 256 && read(client.fd, ignored, sizeof ignored) > 0; i++) {
        }
    }
    close(client.fd);
    client = Client();
}

bool busy() {
    for (Client &client : clients)
        if (client.fd >= 0 && client.pending) return true;
    return false;
}

void push(Client &client) {
    const char *data = chunk;
    size_t size = chunk_size;
    unsigned char head[8] = {(unsigned char)(chunk_stream + 1),
                             0,
                             0,
                             0,
                             (unsigned char)(size >> 24),
                             (unsigned char)(size >> 16),
                             (unsigned char)(size >> 8),
                             (unsigned char)size};
    size_t header = client.flags & plan::kAttachFramed ? 8 : 0;
    while (client.sent < header + size) {
        ssize_t n = client.sent < header
                        ? write(client.fd, head + client.sent, header - client.sent)
                        : write(client.fd, data + client.sent - header, header + size - client.sent);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            rewatch(client);
            return;
        }
        if (n <= 0) return drop(client, false); // a client that vanished takes nothing with it
        client.sent += size_t(n);
    }
    client.pending = false;
    rewatch(client);
}

void watch_output() {
    bool wait = busy();
    if (io.out >= 0 && out_open && !io.terminal) watch(io.out, wait ? 0u : unsigned(EPOLLIN), kTagOut, false);
    if (io.err >= 0 && err_open) watch(io.err, wait ? 0u : unsigned(EPOLLIN), kTagErr, false);
    if (io.terminal && out_open)
        watch(io.out, (wait ? 0u : unsigned(EPOLLIN)) | (input_size ? unsigned(EPOLLOUT) : 0u), kTagOut,
              false);
}

void end_output(int stream) {
    bool &open = stream == 0 ? out_open : err_open;
    int &fd = stream == 0 ? io.out : io.err;
    if (!open) return;
    open = false;
    unwatch(fd);
    close(fd);
    fd = -1;
    if (io.terminal) io.in = -1, input_size = 0;
}

/// False when there was nothing to read.
bool read_output(int stream) {
    int fd = stream == 0 ? io.out : io.err;
    ssize_t n;
    do
        n = read(fd, chunk, sizeof chunk);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0) {
        end_output(stream); // EIO: the last slave of the terminal was closed
        return false;
    }
    chunk_size = size_t(n);
    chunk_stream = stream;
    log_write(stream, chunk, chunk_size);
    for (Client &client : clients) {
        if (client.fd < 0 || !(client.flags & (stream == 0 ? plan::kAttachOut : plan::kAttachErr))) continue;
        client.pending = true;
        client.sent = 0;
        push(client);
    }
    return true;
}

void drain() {
    while (!busy() && (out_open || err_open)) {
        bool any = out_open && read_output(0);
        if (!busy() && err_open) any |= read_output(1);
        if (!any) {
            if (out_open) end_output(0); // held open by a process that outlived its parent
            if (err_open) end_output(1);
        }
    }
    if (!out_open && !err_open) {
        log_finish();
        for (Client &client : clients)
            if (client.fd >= 0 && !client.pending) drop(client, true);
    }
}

void shut_input() {
    close_input = false;
    if (io.in >= 0 && !io.terminal) {
        unwatch(io.in);
        close(io.in);
        io.in = -1;
    }
}

void write_input() {
    while (input_size > 0 && io.in >= 0) {
        ssize_t n = write(io.in, input + input_at, input_size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            if (!io.terminal) shut_input();
            input_size = 0;
            break;
        }
        input_at += size_t(n);
        input_size -= size_t(n);
    }
    if (io.in < 0) input_size = 0;
    if (input_size == 0 && close_input) shut_input();
    if (io.in >= 0 && !io.terminal) watch(io.in, input_size ? unsigned(EPOLLOUT) : 0u, kTagIn, false);
    if (io.terminal && started) watch_output();
    for (Client &client : clients)
        if (client.fd >= 0) rewatch(client);
}

/// Docker's escape proxy: keys are held back while they may become the sequence. True: detach.
bool filter_keys(Client &client, size_t size) {
    static char filtered[sizeof input];
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (input[i] == client.keys[client.matched]) {
            if (++client.matched == client.key_count) {
                memcpy(input, filtered, n);
                input_size = n;
                return true;
            }
            continue;
        }
        for (uint8_t k = 0; k < client.matched; k++)
            filtered[n++] = client.keys[k];
        client.matched = input[i] == client.keys[0] && client.key_count > 1 ? 1 : 0;
        if (!client.matched) filtered[n++] = input[i];
    }
    memcpy(input, filtered, n);
    input_size = n;
    return false;
}

void read_input(Client &client) {
    // Room for keys that were held back in an earlier read.
    ssize_t n = read(client.fd, input, sizeof input - sizeof client.keys);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        client.input_open = false;
        if (client.flags & plan::kAttachIn && io.stdin_once) close_input = true;
        if (n < 0) return drop(client, false), write_input();
        return write_input();
    }
    if (!(client.flags & plan::kAttachIn) || io.in < 0) return; // read and dropped: keeps the socket moving
    input_at = 0;
    input_size = size_t(n);
    if (client.key_count && filter_keys(client, size_t(n))) {
        bool told = !client.pending && !(client.flags & plan::kAttachFramed) &&
                    write(client.fd, kDetached, sizeof kDetached - 1) > 0;
        drop(client, told);
        watch_output();
    }
    write_input();
}

} // namespace

void streams_start(const StreamSetup &setup) {
    io = setup;
    started = true;
    out_open = io.out >= 0;
    err_open = io.err >= 0;
    if (io.terminal) kept_slave = ioctl(io.out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    for (int fd : {io.in, io.out, io.err})
        if (fd >= 0) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (out_open) watch(io.out, EPOLLIN, kTagOut, true);
    if (err_open) watch(io.err, EPOLLIN, kTagErr, true);
    if (io.in >= 0 && !io.terminal) watch(io.in, 0, kTagIn, true);
    for (Client &client : clients)
        if (client.fd >= 0) rewatch(client);
}

int streams_terminal() { return io.terminal ? io.out : -1; }

bool streams_attach(int fd, uint32_t flags, const char *keys, size_t key_count) {
    for (Client &client : clients) {
        if (client.fd >= 0) continue;
        client = Client();
        client.fd = fd;
        client.flags = flags;
        client.input_open = true;
        client.key_count = uint8_t(key_count > sizeof client.keys ? 0 : key_count);
        memcpy(client.keys, keys, client.key_count);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        if (!watch(fd, 0, kTagClient + uint32_t(&client - clients), true)) {
            client = Client();
            return false;
        }
        if (started && finishing && !out_open && !err_open)
            drop(client, true);
        else
            rewatch(client);
        return true;
    }
    return false;
}

void streams_event(uint32_t tag, uint32_t events) {
    if (tag >= kTagClient) {
        Client &client = clients[tag - kTagClient];
        if (client.fd < 0) return;
        if (client.pending && events & EPOLLOUT) push(client);
        if (client.fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
            if (input_size == 0 && started) {
                read_input(client);
            } else if (started && client.input_open && events & (EPOLLHUP | EPOLLERR)) {
                // Its last input must wait for the process; HUP cannot be masked, so leave the set.
                unwatch(client.fd);
                client.watched = ~0u;
            }
            // Hung up in both directions and nothing left to read: gone.
            if (client.fd >= 0 && events & (EPOLLHUP | EPOLLERR) && !client.input_open)
                drop(client, false);
            else if (client.fd >= 0 && !started && events & (EPOLLHUP | EPOLLERR))
                drop(client, false);
        }
        if (finishing)
            drain();
        else if (started)
            watch_output();
        return;
    }
    if (tag == kTagIn) {
        if (events & EPOLLERR) input_size = 0, shut_input(); // the process closed its stdin
        return write_input();
    }
    if (events & EPOLLOUT) write_input();
    int stream = tag == kTagErr;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !busy() && (stream ? err_open : out_open)) {
        read_output(stream);
        watch_output();
    }
}

void streams_finish() {
    finishing = true;
    shut_input();
    if (out_open) watch(io.out, 0, kTagOut, false);
    if (err_open) watch(io.err, 0, kTagErr, false);
    drain();
}

bool streams_done() {
    if (out_open || err_open) return false;
    for (Client &client : clients)
        if (client.fd >= 0) return false;
    return true;
}

void streams_abort() {
    for (Client &client : clients)
        drop(client, false);
    if (out_open) end_output(0);
    if (err_open) end_output(1);
    log_finish();
}

} // namespace gantry::shim

// gantry-portd: serves published ports where the kernel cannot translate: ::1 has no route_localnet, and
// IPv6 clients cannot reach an IPv4-only container. One process for the whole engine, one epoll loop;
// it goes on when the engine is killed and is found again by its control socket.
//
// Control: packets on a SOCK_SEQPACKET socket, one command each, answered by an errno in decimal:
//   add tcp|udp <host v6> <port> <target> <port>   listen and relay; the same again changes the target
//   del tcp|udp <host v6> <port>
//   mark / sweep    a restarted engine: what was not added again since mark goes
//   quit
// It ends when it has had no port and no controller for half a minute, or its socket was removed.
#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <map>
#include <memory>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <set>
#include <string>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr size_t kMaxConnections = 4096, kMaxFlows = 1024, kChunk = 32768;
constexpr int kUdpIdleSeconds = 90, kLingerSeconds = 30;

int epoll_fd = -1;

time_t now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec;
}

struct Handler {
    virtual ~Handler() = default;
    virtual void event(int fd, uint32_t events) = 0;
    bool dead = false;
};

// epoll speaks of descriptors; a descriptor that was closed and reused within one round of events must
// not reach the wrong handler, therefore closing is put off to the end of the round.
std::map<int, Handler *> handlers;
std::map<int, uint32_t> watched;
std::vector<int> to_close;
std::vector<std::unique_ptr<Handler>> graveyard;

void watch(int fd, Handler *handler, uint32_t events) {
    // A mask of 0 still reports hang-ups, again and again: out of the set with it.
    epoll_event e{};
    e.events = events;
    e.data.fd = fd;
    const auto it = watched.find(fd);
    handlers[fd] = handler;
    if (events == 0) {
        if (it == watched.end()) return;
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
        watched.erase(it);
    } else if (it == watched.end()) {
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
        watched[fd] = events;
    } else if (it->second != events) {
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e);
        it->second = events;
    }
}

void forget(int fd) {
    if (fd < 0) return;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
    watched.erase(fd);
    handlers.erase(fd);
    to_close.push_back(fd);
}

struct Target {
    sockaddr_storage address{};
    socklen_t size = 0;
};

bool make_target(const char *text, unsigned port, Target &t) {
    auto *v4 = reinterpret_cast<sockaddr_in *>(&t.address);
    auto *v6 = reinterpret_cast<sockaddr_in6 *>(&t.address);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(static_cast<uint16_t>(port));
        t.size = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1) return false;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    t.size = sizeof *v6;
    return true;
}

// ---- TCP ----

struct Port;
struct Connection;
std::map<Connection *, std::unique_ptr<Connection>> connections;

struct Connection : Handler {
    Port *port;
    int fd[2];
    bool connecting = true;
    struct Way { // bytes read from fd[i] and not yet written to fd[1 - i]
        std::vector<char> data;
        size_t done = 0;
        bool eof = false, shut = false;
        bool pending() const { return done < data.size(); }
    } way[2];

    Connection(Port *p, int client, int server) : port(p), fd{client, server} { update(); }

    void end() {
        if (dead) return;
        dead = true;
        forget(fd[0]);
        forget(fd[1]);
        const auto it = connections.find(this);
        graveyard.push_back(std::move(it->second));
        connections.erase(it);
    }

    bool pump(int i) { // false: broken
        Way &w = way[i];
        for (int round = 0; round < 8; ++round) {
            while (w.pending()) {
                const ssize_t n =
                    send(fd[1 - i], w.data.data() + w.done, w.data.size() - w.done, MSG_NOSIGNAL);
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) return errno == EAGAIN;
                w.done += static_cast<size_t>(n);
            }
            w.done = 0;
            if (w.eof) {
                w.data = {};
                if (!w.shut) shutdown(fd[1 - i], SHUT_WR);
                w.shut = true;
                return true;
            }
            w.data.resize(kChunk);
            ssize_t n;
            do
                n = recv(fd[i], w.data.data(), kChunk, 0);
            while (n < 0 && errno == EINTR);
            w.data.resize(n > 0 ? static_cast<size_t>(n) : 0);
            if (n < 0) {
                w.data = {}; // idle connections hold no buffers
                return errno == EAGAIN;
            }
            if (n == 0) w.eof = true;
        }
        return true;
    }

    void update() {
        for (int i = 0; i < 2; ++i) {
            uint32_t events = 0;
            if (!connecting && !way[i].eof && !way[i].pending()) events |= EPOLLIN;
            if (way[1 - i].pending() || (connecting && i == 1)) events |= EPOLLOUT;
            watch(fd[i], this, events);
        }
    }

    void event(int which, uint32_t) override {
        if (connecting) {
            int e = 0;
            socklen_t size = sizeof e;
            if (which != fd[1]) return;
            if (getsockopt(fd[1], SOL_SOCKET, SO_ERROR, &e, &size) != 0 || e != 0) return end();
            connecting = false;
        }
        if (!pump(0) || !pump(1) || (way[0].shut && way[1].shut)) return end();
        update();
    }
};

// ---- ports ----

struct Flow {
    int fd = -1;
    time_t used = 0;
    sockaddr_in6 client{};
    in6_pktinfo local{};
};

struct Port : Handler {
    int fd = -1;
    bool udp = false, stale = false;
    Target target;
    std::map<std::string, Flow> flows; // by client address and port
    std::map<int, std::string> flow_of;

    ~Port() override { stop(); }
    void stop() {
        if (dead) return;
        dead = true;
        forget(fd);
        for (auto &[key, flow] : flows)
            forget(flow.fd);
        std::vector<Connection *> ours;
        for (auto &[c, owner] : connections)
            if (c->port == this) ours.push_back(c);
        for (Connection *c : ours)
            c->end();
    }

    int listen_on(const sockaddr_in6 &address) { // errno
        fd = socket(AF_INET6, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) return errno;
        const int one = 1;
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        if (!udp)
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        else
            setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one);
        if (bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 ||
            (!udp && listen(fd, 512) != 0)) {
            const int e = errno;
            close(fd);
            fd = -1;
            dead = true;
            return e;
        }
        watch(fd, this, EPOLLIN);
        return 0;
    }

    void event(int which, uint32_t) override {
        if (!udp) return accept_some();
        if (which == fd) return from_clients();
        from_target(which);
    }

    void accept_some() {
        for (int i = 0; i < 64; ++i) {
            const int client = accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (client < 0) return;
            const int server =
                connections.size() >= kMaxConnections
                    ? -1
                    : socket(target.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            if (server < 0 ||
                (connect(server, reinterpret_cast<sockaddr *>(&target.address), target.size) != 0 &&
                 errno != EINPROGRESS)) {
                if (server >= 0) close(server);
                close(client);
                continue;
            }
            const int one = 1;
            for (const int s : {client, server}) {
                setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
                setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            }
            auto c = std::make_unique<Connection>(this, client, server);
            Connection *raw = c.get();
            connections.emplace(raw, std::move(c));
        }
    }

    void drop_flow(const std::string &key) {
        const auto it = flows.find(key);
        flow_of.erase(it->second.fd);
        forget(it->second.fd);
        flows.erase(it);
    }

    void expire() {
        std::vector<std::string> old;
        for (auto &[key, flow] : flows)
            if (now() - flow.used > kUdpIdleSeconds) old.push_back(key);
        for (const auto &key : old)
            drop_flow(key);
    }

    void from_clients() {
        static char buffer[65536];
        for (int i = 0; i < 64; ++i) {
            sockaddr_in6 client{};
            alignas(cmsghdr) char control[CMSG_SPACE(sizeof(in6_pktinfo))];
            iovec part{buffer, sizeof buffer};
            msghdr m{&client, sizeof client, &part, 1, control, sizeof control, 0};
            const ssize_t n = recvmsg(fd, &m, 0);
            if (n < 0) return;
            const std::string key(reinterpret_cast<char *>(&client), sizeof client);
            auto it = flows.find(key);
            if (it == flows.end()) {
                if (flows.size() >= kMaxFlows)
                    drop_flow(std::min_element(flows.begin(), flows.end(), [](auto &a, auto &b) {
                                  return a.second.used < b.second.used;
                              })->first);
                const int out =
                    socket(target.address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                if (out < 0) continue;
                if (connect(out, reinterpret_cast<sockaddr *>(&target.address), target.size) != 0) {
                    close(out);
                    continue;
                }
                Flow flow;
                flow.fd = out;
                flow.client = client;
                for (cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
                    if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
                        std::memcpy(&flow.local, CMSG_DATA(c), sizeof flow.local);
                it = flows.emplace(key, flow).first;
                flow_of[out] = key;
                watch(out, this, EPOLLIN);
            }
            it->second.used = now();
            // A refusal of the container that was reported late must not swallow this datagram.
            if (send(it->second.fd, buffer, static_cast<size_t>(n), MSG_NOSIGNAL) < 0 &&
                errno == ECONNREFUSED)
                send(it->second.fd, buffer, static_cast<size_t>(n), MSG_NOSIGNAL);
        }
    }

    void from_target(int which) {
        static char buffer[65536];
        const auto found = flow_of.find(which);
        if (found == flow_of.end()) return;
        Flow &flow = flows[found->second];
        for (int i = 0; i < 64; ++i) {
            const ssize_t n = recv(which, buffer, sizeof buffer, 0);
            if (n < 0) return; // also ECONNREFUSED: reading has cleared it
            flow.used = now();
            // Answer from the address that was asked.
            alignas(cmsghdr) char control[CMSG_SPACE(sizeof(in6_pktinfo))] = {};
            iovec part{buffer, static_cast<size_t>(n)};
            msghdr m{&flow.client, sizeof flow.client, &part, 1, control, sizeof control, 0};
            cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = IPPROTO_IPV6;
            c->cmsg_type = IPV6_PKTINFO;
            c->cmsg_len = CMSG_LEN(sizeof flow.local);
            std::memcpy(CMSG_DATA(c), &flow.local, sizeof flow.local);
            sendmsg(fd, &m, MSG_NOSIGNAL);
        }
    }
};

std::map<std::string, std::unique_ptr<Port>> ports; // "tcp [addr] port"
bool quitting = false;

void drop_port(std::map<std::string, std::unique_ptr<Port>>::iterator it) {
    it->second->stop();
    graveyard.push_back(std::move(it->second));
    ports.erase(it);
}

// ---- control ----

std::set<Handler *> controllers;

int command(const char *line) {
    char verb[8] = "", protocol[8] = "", host[64] = "", to[64] = "";
    unsigned port = 0, to_port = 0;
    const int n = std::sscanf(line, "%7s %7s %63s %u %63s %u", verb, protocol, host, &port, to, &to_port);
    const std::string v = verb;
    if (v == "quit") {
        quitting = true;
        return 0;
    }
    if (v == "mark") {
        for (auto &[key, p] : ports)
            p->stale = true;
        return 0;
    }
    if (v == "sweep") {
        for (auto it = ports.begin(); it != ports.end();) {
            const auto here = it++;
            if (here->second->stale) drop_port(here);
        }
        return 0;
    }
    const bool udp = std::string(protocol) == "udp";
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<uint16_t>(port));
    if (n < 4 || (!udp && std::string(protocol) != "tcp") || port == 0 || port > 65535 ||
        inet_pton(AF_INET6, host, &address.sin6_addr) != 1)
        return EINVAL;
    const std::string key = std::string(protocol) + " " + host + " " + std::to_string(port);
    const auto it = ports.find(key);
    if (v == "del") {
        if (it != ports.end()) drop_port(it);
        return 0;
    }
    Target target;
    if (v != "add" || n != 6 || to_port == 0 || to_port > 65535 || !make_target(to, to_port, target))
        return EINVAL;
    if (it != ports.end()) {
        // Only a marked port may be taken over: a live one belongs to another container.
        const bool same = std::memcmp(&it->second->target.address, &target.address, target.size) == 0;
        if (!it->second->stale && !same) return EADDRINUSE;
        it->second->target = target;
        it->second->stale = false;
        return 0;
    }
    auto p = std::make_unique<Port>();
    p->udp = udp;
    p->target = target;
    if (const int e = p->listen_on(address)) return e;
    ports.emplace(key, std::move(p));
    return 0;
}

struct Controller : Handler {
    int fd;
    explicit Controller(int f) : fd(f) {
        controllers.insert(this);
        watch(fd, this, EPOLLIN);
    }
    void event(int, uint32_t) override {
        char line[256];
        const ssize_t n = recv(fd, line, sizeof line - 1, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) {
            controllers.erase(this);
            forget(fd);
            graveyard.emplace_back(this);
            return;
        }
        line[n] = '\0';
        const std::string answer = std::to_string(command(line));
        send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
    }
};

struct Door : Handler {
    int fd;
    explicit Door(int f) : fd(f) { watch(fd, this, EPOLLIN); }
    void event(int, uint32_t) override {
        const int c = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (c < 0) return;
        ucred peer{};
        socklen_t size = sizeof peer;
        if (controllers.size() >= 8 || getsockopt(c, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
            (peer.uid != geteuid() && peer.uid != 0)) {
            close(c);
            return;
        }
        new Controller(c); // owned by itself until its end
    }
};

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: gantry-portd <folder>; started by the net-bridge plugin of gantry\n");
        return 2;
    }
    if (close_range(3, ~0u, 0) != 0) return 1;
    signal(SIGPIPE, SIG_IGN);
    umask(0077);
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    // Through the folder's descriptor: sun_path has room for 107 bytes only.
    const int folder = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return 1;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/portd.sock", folder);
    const auto *raw = reinterpret_cast<const sockaddr *>(&address);
    const int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (probe < 0) return 1;
    if (connect(probe, raw, sizeof address) == 0) return 0; // one is enough
    close(probe);
    unlinkat(folder, "portd.sock", 0);
    const int door_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (door_fd < 0 || bind(door_fd, raw, sizeof address) != 0 || listen(door_fd, 16) != 0) return 1;
    struct stat own {};
    fstatat(folder, "portd.sock", &own, 0);
    // The parent's exit says "ready", and leaves the child to init: it outlives the engine.
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child > 0) _exit(0);
    setsid();
    if (chdir("/") != 0) return 1;

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    Door door(door_fd);
    time_t lonely_since = now(), last_tick = now();
    while (!quitting) {
        epoll_event events[64];
        const int n = epoll_wait(epoll_fd, events, 64, 5000);
        if (n < 0 && errno != EINTR) break;
        for (int i = 0; i < n; ++i) {
            const auto it = handlers.find(events[i].data.fd);
            if (it != handlers.end() && !it->second->dead)
                it->second->event(events[i].data.fd, events[i].events);
        }
        graveyard.clear();
        for (const int fd : to_close)
            close(fd);
        to_close.clear();
        if (now() - last_tick < 5) continue;
        last_tick = now();
        for (auto &[key, p] : ports)
            p->expire();
        if (!ports.empty() || !controllers.empty()) lonely_since = now();
        struct stat there {};
        const bool removed = fstatat(folder, "portd.sock", &there, 0) != 0 || there.st_ino != own.st_ino;
        if ((removed && controllers.empty()) || now() - lonely_since > kLingerSeconds) break;
    }
    struct stat there {};
    if (fstatat(folder, "portd.sock", &there, 0) == 0 && there.st_ino == own.st_ino)
        unlinkat(folder, "portd.sock", 0);
    _exit(0);
}

#include "core/api/server.h"
#include "core/base/files.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <map>
#include <mutex>
#include <poll.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace gantry::api {

namespace {

constexpr size_t kStack = 512u << 10; // drivers run on it: libarchive, SQLite, libnftables

sockaddr_un address_of(const std::string &path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
        throw Error(ErrorClass::kInvalidArgument, "listen on " + path + ": a socket path has 1 to 107 bytes",
                    "choose a shorter engine.socket");
    memcpy(address.sun_path, path.data(), path.size());
    return address;
}

/// systemd's socket activation: descriptor 3 listens already. Variables meant for another process (the pid
/// differs) are somebody else's; what is meant for us but cannot be served is a mistake to tell.
UniqueFd inherited_socket() {
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    if (!pid || !fds || atoi(pid) != getpid() || atoi(fds) < 1) return {};
    const int count = atoi(fds);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (count > 1)
        throw Error(
            ErrorClass::kInvalidArgument,
            fmt::format("listen on the sockets of systemd: {} were handed over, one is served", count),
            "keep one ListenStream in gantry.socket");
    UniqueFd fd(3);
    int family = 0, listens = 0;
    socklen_t size = sizeof family;
    if (getsockopt(3, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0 || family != AF_UNIX ||
        getsockopt(3, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens)
        throw Error(ErrorClass::kInvalidArgument,
                    "listen on the socket of systemd: descriptor 3 is no listening unix socket",
                    "set ListenStream in gantry.socket to a path");
    fcntl(3, F_SETFD, FD_CLOEXEC);
    return fd;
}

std::string path_of(const UniqueFd &listener) {
    sockaddr_un address{};
    socklen_t size = sizeof address;
    if (getsockname(listener.get(), reinterpret_cast<sockaddr *>(&address), &size) != 0) return {};
    return std::string(address.sun_path, strnlen(address.sun_path, size - offsetof(sockaddr_un, sun_path)));
}

UniqueFd bind_socket(const ServerSettings &settings) {
    const sockaddr_un address = address_of(settings.socket_path);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) throw Error::from_errno(errno, "make socket");
    const size_t slash = settings.socket_path.rfind('/');
    if (slash != std::string::npos && slash > 0)
        make_directories(settings.socket_path.substr(0, slash), 0755);

    struct stat info {};
    if (lstat(settings.socket_path.c_str(), &info) == 0) {
        if (!S_ISSOCK(info.st_mode))
            throw Error(ErrorClass::kFailedPrecondition,
                        "listen on " + settings.socket_path + ": the path exists and is no socket");
        UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        // EAGAIN: a full backlog is also somebody who listens.
        if (connect(probe.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0 ||
            errno == EAGAIN)
            throw Error(ErrorClass::kFailedPrecondition,
                        "listen on " + settings.socket_path + ": another engine answers there",
                        "stop it first, or give this one its own root, run and socket");
        if (unlink(settings.socket_path.c_str()) != 0 && errno != ENOENT)
            throw Error::from_errno(errno, "remove stale socket " + settings.socket_path);
    }
    gid_t group = gid_t(-1);
    if (!settings.socket_group.empty()) {
        errno = 0;
        const struct group *entry = getgrnam(settings.socket_group.c_str());
        if (!entry)
            throw Error(ErrorClass::kInvalidArgument,
                        "listen on " + settings.socket_path + ": no group " + settings.socket_group,
                        "groupadd " + settings.socket_group + ", or empty engine.socket_group");
        group = entry->gr_gid;
    }
    // Born closed: the mode is widened only after the group is right.
    const mode_t before = umask(0177);
    const int bound = bind(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address);
    const int bind_errno = errno;
    umask(before);
    if (bound != 0) throw Error::from_errno(bind_errno, "bind " + settings.socket_path);
    if (group != gid_t(-1) && chown(settings.socket_path.c_str(), uid_t(-1), group) != 0)
        throw Error::from_errno(errno, "chown " + settings.socket_path);
    if (chmod(settings.socket_path.c_str(), 0660) != 0)
        throw Error::from_errno(errno, "chmod " + settings.socket_path);
    if (listen(fd.get(), 256) != 0) throw Error::from_errno(errno, "listen on " + settings.socket_path);
    return fd;
}

} // namespace

UniqueFd lock_engine(const std::string &run_dir) {
    const std::string path = run_dir + "/gantryd.lock";
    UniqueFd fd = open_file(path, O_RDWR | O_CREAT, 0600);
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        char text[32] = {};
        ssize_t n = pread(fd.get(), text, sizeof text - 1, 0);
        std::string holder = n > 0 ? std::string(text, strcspn(text, "\n")) : "unknown";
        throw Error(ErrorClass::kFailedPrecondition,
                    "lock " + path + ": gantryd (pid " + holder + ") already uses it",
                    "stop it first, or give this one its own root, run and socket");
    }
    const std::string pid = std::to_string(getpid()) + "\n";
    if (ftruncate(fd.get(), 0) != 0 || pwrite(fd.get(), pid.data(), pid.size(), 0) < 0)
        throw Error::from_errno(errno, "write " + path);
    return fd;
}

struct Server::Impl {
    ServerSettings settings;
    std::shared_ptr<const Router> router;
    CancelSource stop;
    UniqueFd listener;
    bool own_socket = false;
    std::mutex mutex;
    std::condition_variable changed; // one left, or waits
    unsigned connections = 0;
    uint64_t turn = 0;
    std::map<uint64_t, int> waiting; // connections between two requests, the longest waiting first

    void leave() {
        std::lock_guard lock(mutex);
        --connections;
        changed.notify_all();
    }

    /// A place for one more connection. When all are taken, the one that has been silent for the longest
    /// time gives way: HTTP allows to close between requests, and a client that only sits there must not
    /// keep others out.
    bool enter() {
        std::unique_lock lock(mutex);
        auto free = [&] { return connections < settings.max_connections; };
        // One that has just been answered is about to wait: its client may be the one that comes back here.
        if (!free())
            changed.wait_for(lock, std::chrono::milliseconds(250),
                             [&] { return free() || !waiting.empty(); });
        if (!free() && !waiting.empty()) {
            shutdown(waiting.begin()->second, SHUT_RD);
            waiting.erase(waiting.begin());
            changed.wait_for(lock, std::chrono::seconds(2), free);
        }
        if (!free()) return false;
        ++connections;
        return true;
    }

    bool next(Connection &connection, Request &request) {
        uint64_t mine;
        {
            std::lock_guard lock(mutex);
            waiting[mine = ++turn] = connection.fd();
            changed.notify_all();
        }
        struct Done { // before the descriptor can be closed and its number used again
            Impl &impl;
            uint64_t mine;
            ~Done() {
                std::lock_guard lock(impl.mutex);
                impl.waiting.erase(mine);
            }
        } done{*this, mine};
        return connection.next(request);
    }

    void serve(UniqueFd fd) {
        Connection connection(std::move(fd), settings.limits, &stop);
        Request request;
        try {
            while (true) {
                bool keep = false;
                Response response(connection, request);
                try {
                    if (!next(connection, request)) return;
                    Exchange exchange{request, response, connection};
                    router->serve(exchange);
                    if (connection.hijacked()) return;
                    keep = connection.finish(request) && !(response.streaming() && request.http10);
                    log_debug("{} {} {}", request.method, request.target, response.status());
                } catch (const HttpError &error) {
                    if (connection.hijacked()) return;
                    request.keep_alive = false;
                    if (!response.started()) response.error(error.status, error.message);
                }
                if (!keep || stop.cancelled()) break;
            }
        } catch (const Error &error) {
            log_debug("connection: {}", error.message());
        } catch (const std::exception &error) {
            // bad_alloc and friends: this client loses its connection, nobody else notices.
            log_error("connection: {} {}: {}", request.method, request.path, error.what());
        }
        if (connection.hijacked()) return;
        // Closing with unread input makes the kernel drop the answer on its way: half-close, then drain.
        shutdown(connection.fd(), SHUT_WR);
        char sink[4096];
        pollfd ready{connection.fd(), POLLIN, 0};
        for (int i = 0; i < 256 && poll(&ready, 1, 200) > 0; ++i)
            if (recv(connection.fd(), sink, sizeof sink, MSG_DONTWAIT) <= 0) break;
    }
};

Server::Server(const ServerSettings &settings, std::shared_ptr<const Router> router)
    : impl_(std::make_shared<Impl>()) {
    impl_->settings = settings;
    impl_->router = std::move(router);
    impl_->listener = inherited_socket();
    if (impl_->listener) {
        impl_->settings.socket_path = path_of(impl_->listener);
    } else {
        impl_->listener = bind_socket(settings);
        impl_->own_socket = true;
    }
}

Server::~Server() { remove_socket(); }

void Server::remove_socket() noexcept {
    // systemd's socket stays; ours must not look as if somebody listened.
    if (impl_->own_socket) unlink(impl_->settings.socket_path.c_str());
}

const std::string &Server::address() const { return impl_->settings.socket_path; }

void Server::stop() noexcept { impl_->stop.cancel(); }

bool Server::run(int grace_ms) {
    struct Start {
        std::shared_ptr<Impl> impl;
        UniqueFd fd;
    };
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStack);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    auto body = [](void *raw) -> void * {
        std::unique_ptr<Start> start(static_cast<Start *>(raw));
        std::shared_ptr<Impl> impl = std::move(start->impl);
        impl->serve(std::move(start->fd));
        impl->leave();
        return nullptr;
    };
    while (!impl_->stop.cancelled()) {
        pollfd fds[2] = {{impl_->listener.get(), POLLIN, 0}, {impl_->stop.fd(), POLLIN, 0}};
        if (poll(fds, 2, -1) < 0 || fds[1].revents) continue;
        UniqueFd client(accept4(impl_->listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!client) {
            // Out of descriptors: the pending client would wake us in a busy loop.
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) poll(&fds[1], 1, 100);
            continue;
        }
        if (!impl_->enter()) {
            static const char kFull[] =
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                "Content-Length: 35\r\nConnection: close\r\n\r\n{\"message\":\"too many connections\"}\n";
            (void)!send(client.get(), kFull, sizeof kFull - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
            continue;
        }
        auto *start = new Start{impl_, std::move(client)};
        pthread_t thread;
        if (int error = pthread_create(&thread, &attributes, body, start); error != 0) {
            delete start;
            impl_->leave();
            log_error("start connection thread: {}", strerror(error));
        }
    }
    pthread_attr_destroy(&attributes);
    impl_->listener.reset();
    std::unique_lock lock(impl_->mutex);
    return impl_->changed.wait_for(lock, std::chrono::milliseconds(grace_ms),
                                   [&] { return impl_->connections == 0; });
}

} // namespace gantry::api

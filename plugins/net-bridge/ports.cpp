// See ports.h.
#include "ports.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry::bridge {

PortRange parse_port_range(std::string_view text) {
    const auto number = [](std::string_view digits) -> unsigned {
        if (digits.empty() || digits.size() > 5) return 0;
        unsigned n = 0;
        for (const char c : digits) {
            if (c < '0' || c > '9') return 0;
            n = n * 10 + static_cast<unsigned>(c - '0');
        }
        return n > 65535 ? 0 : n;
    };
    const size_t dash = text.find('-');
    const unsigned first = number(text.substr(0, dash));
    const unsigned last = dash == std::string_view::npos ? first : number(text.substr(dash + 1));
    if (first == 0 || last < first)
        throw Error(ErrorClass::kInvalidArgument,
                    "read port range: \"" + std::string(text.substr(0, 32)) + "\" is none",
                    "write it as 32768-60999");
    return {static_cast<uint16_t>(first), static_cast<uint16_t>(last)};
}

Fd bind_port(uint8_t protocol, const Address &host, uint16_t port) {
    const bool udp = protocol == IPPROTO_UDP;
    sockaddr_storage storage{};
    socklen_t size;
    if (host.family == AF_INET6) {
        auto *a = reinterpret_cast<sockaddr_in6 *>(&storage);
        a->sin6_family = AF_INET6;
        a->sin6_port = htons(port);
        std::memcpy(&a->sin6_addr, host.bytes.data(), 16);
        size = sizeof *a;
    } else {
        auto *a = reinterpret_cast<sockaddr_in *>(&storage);
        a->sin_family = AF_INET;
        a->sin_port = htons(port);
        std::memcpy(&a->sin_addr, host.bytes.data(), 4); // all zero when no host address is named
        size = sizeof *a;
    }
    // The second try gets past connections in TIME_WAIT; against a listener it fails as the first did.
    for (const int reuse : {0, 1}) {
        Fd fd(::socket(storage.ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
        if (!fd) return fd;
        const int one = 1, zero = 0;
        if (host.family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        if (udp) ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &zero, sizeof zero);
        if (reuse) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (::bind(fd.get(), reinterpret_cast<sockaddr *>(&storage), size) == 0) {
            if (reuse) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &zero, sizeof zero);
            return fd;
        }
        if (errno != EADDRINUSE || udp) break;
    }
    return Fd();
}

bool PortdClient::available() const { return !program_.empty() && ::access(program_.c_str(), X_OK) == 0; }

bool PortdClient::reach() {
    if (socket_) return true;
    const Fd folder(::open(run_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!folder) return false;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // Through the folder's descriptor: sun_path has room for 107 bytes only.
    const std::string path = "/proc/self/fd/" + std::to_string(folder.get()) + "/portd.sock";
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!fd || ::connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) return false;
    const timeval limit{5, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    socket_ = std::move(fd);
    return true;
}

bool PortdClient::start() {
    if (!available()) return false;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const int fd : {0, 1, 2})
        posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    char *argv[] = {program_.data(), run_.data(), nullptr};
    char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    char *env[] = {path, nullptr};
    pid_t pid = -1;
    const int e = ::posix_spawn(&pid, program_.c_str(), &actions, &attributes, argv, env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (e != 0) return false;
    // It exits when its child listens. The engine may reap children on its own (ECHILD): reach() decides.
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return reach();
}

bool PortdClient::ready() { return reach() || start(); }

int PortdClient::tell(const std::string &command, bool start_it) {
    // Twice: the first socket may be one of a relay that has ended.
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (!reach() && (!start_it || !start())) return ENOSYS;
        char answer[16];
        ssize_t n = ::send(socket_.get(), command.data(), command.size(), MSG_NOSIGNAL);
        if (n > 0) do
                n = ::recv(socket_.get(), answer, sizeof answer - 1, 0);
            while (n < 0 && errno == EINTR);
        if (n > 0) {
            answer[n] = '\0';
            return std::atoi(answer);
        }
        socket_ = Fd();
    }
    return EIO;
}

namespace {
std::string words(const char *verb, uint8_t protocol, const Address &host, uint16_t port) {
    return std::string(verb) + (protocol == IPPROTO_UDP ? " udp " : " tcp ") +
           (host.family == AF_INET6 ? host.text() : "::") + " " + std::to_string(port);
}
} // namespace

int PortdClient::add(uint8_t protocol, const Address &host, uint16_t port, const Address &target,
                     uint16_t target_port) {
    return tell(words("add", protocol, host, port) + " " + target.text() + " " + std::to_string(target_port),
                true);
}

int PortdClient::del(uint8_t protocol, const Address &host, uint16_t port) {
    return tell(words("del", protocol, host, port), false);
}

void PortdClient::quit() { tell("quit", false); }

} // namespace gantry::bridge

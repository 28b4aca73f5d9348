// The daemon is started detached (own session, own log file) so that the terminal's signals and its end
// do not reach it. Two clients may start one each: the second daemon finds the socket taken and ends.
// Readiness is the socket accepting; inotify on its directory tells when it appears. The socket file of
// a dead daemon exists already, therefore each wake-up (at the latest after 100 ms) tries connect(2).
#include "core/cli/daemon_start.h"

#include "core/cli/client.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace gantry::cli {
namespace {

constexpr int64_t kStartDeadlineMs = 20000;

// Returns an empty fd and errno in `error` when nobody answers.
UniqueFd try_connect(const std::string &path, int &error) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        error = ENAMETOOLONG;
        return {};
    }
    memcpy(address.sun_path, path.data(), path.size());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) throw Error::from_errno(errno, "create socket");
    // AF_UNIX connect gives EAGAIN when the backlog is full only on non-blocking sockets.
    while (::connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) < 0) {
        if (errno == EINTR) continue;
        error = errno;
        return {};
    }
    error = 0;
    return fd;
}

int64_t now_ms() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000ll + time.tv_nsec / 1000000;
}

[[noreturn]] void fail_no_daemon(const std::string &path, int error) {
    if (error == EACCES || error == EPERM)
        throw Error(ErrorClass::kPermissionDenied,
                    "permission denied while trying to connect to the gantry daemon at unix://" + path,
                    "run as root, or set engine.socket_group to a group of yours");
    throw Error(ErrorClass::kUnavailable,
                "cannot connect to the gantry daemon at unix://" + path + ". Is it running?",
                "start it with: systemctl start gantry, or: gantryd --socket " + path);
}

/// `config` and `socket` may be "": the daemon's own defaults.
pid_t spawn_daemon(const std::string &binary, const std::string &log_path, const std::string &config,
                   const std::string &socket) {
    std::vector<const char *> arguments{"gantryd"};
    if (!config.empty()) arguments.insert(arguments.end(), {"--config", config.c_str()});
    if (!socket.empty()) arguments.insert(arguments.end(), {"--socket", socket.c_str()});
    arguments.push_back(nullptr);
    pid_t child = ::fork();
    if (child < 0) throw Error::from_errno(errno, "start " + binary);
    if (child > 0) return child;
    // setsid first: from here on no signal of the terminal reaches the daemon.
    ::setsid();
    int null_fd = ::open("/dev/null", O_RDWR);
    int log_fd = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0640);
    ::dup2(null_fd, 0);
    ::dup2(log_fd >= 0 ? log_fd : null_fd, 1);
    ::dup2(log_fd >= 0 ? log_fd : null_fd, 2);
    // Pipes of the caller's shell must not stay open in the daemon.
    ::close_range(3, ~0u, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    (void)!::chdir("/");
    ::execv(binary.c_str(), const_cast<char *const *>(arguments.data()));
    _exit(127);
}

// The daemon works in / and would look for a relative path there.
std::string absolute_path(const std::string &path) {
    if (path.empty() || path[0] == '/') return path;
    char here[PATH_MAX];
    if (!::getcwd(here, sizeof here)) throw Error::from_errno(errno, "find the current directory");
    return std::string(here) + "/" + path;
}

} // namespace

std::string find_program(const std::string &name) {
    char self[PATH_MAX];
    ssize_t length = ::readlink("/proc/self/exe", self, sizeof self);
    std::string path;
    if (length > 0) {
        path.assign(self, static_cast<size_t>(length));
        path = path.substr(0, path.rfind('/') + 1) + name;
        if (::access(path.c_str(), X_OK) == 0) return path;
    }
    path = "/usr/bin/" + name;
    return ::access(path.c_str(), X_OK) == 0 ? path : "";
}

UniqueFd connect_or_start(const Endpoint &endpoint) {
    int error = 0;
    if (UniqueFd fd = try_connect(endpoint.path, error)) return fd;
    std::string binary;
    bool absent = error == ENOENT || error == ECONNREFUSED;
    // Who names a socket means an engine that runs, unless GANTRY_CONFIG says how to start that one.
    const char *value = getenv("GANTRY_CONFIG");
    const std::string config = value ? value : "";
    if ((!endpoint.is_default && config.empty()) || !absent || ::geteuid() != 0 ||
        (binary = find_program("gantryd")).empty())
        fail_no_daemon(endpoint.path, error);

    std::string directory = endpoint.path.substr(0, endpoint.path.rfind('/'));
    std::string log_path = directory + "/gantryd.log";
    ::mkdir(directory.c_str(), 0711);
    UniqueFd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (watch) ::inotify_add_watch(watch.get(), directory.c_str(), IN_CREATE | IN_MOVED_TO | IN_ATTRIB);
    pid_t child =
        spawn_daemon(binary, log_path, absolute_path(config), endpoint.is_default ? "" : endpoint.path);

    bool child_ended = false;
    for (int64_t deadline = now_ms() + kStartDeadlineMs; now_ms() < deadline;) {
        if (UniqueFd fd = try_connect(endpoint.path, error)) return fd;
        int status = 0;
        // A daemon that found another one already there ends with an error; that other one may still
        // be on its way to listen, so one more second is given to it.
        if (!child_ended && ::waitpid(child, &status, WNOHANG) == child) {
            child_ended = true;
            deadline = std::min(deadline, now_ms() + 1000);
        }
        pollfd wait{watch.get(), POLLIN, 0};
        if (::poll(&wait, 1, 100) > 0) {
            char events[4096];
            while (::read(watch.get(), events, sizeof events) > 0) {
            }
        }
    }
    throw Error(ErrorClass::kUnavailable,
                "start the gantry daemon: " + binary +
                    (child_ended ? " ended before it listened on unix://" : " does not listen on unix://") +
                    endpoint.path,
                "see " + log_path);
}

} // namespace gantry::cli

// What the faulty drivers share. Each is a healthy driver behind a table that breaks one rule, the one that
// the variable GANTRY_FAULT names; without it, it keeps the contract.
#pragma once

#include <gantry/plugin.hpp>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace faulty {

inline bool is(const char *name) {
    const char *wanted = getenv("GANTRY_FAULT");
    return wanted && strcmp(wanted, name) == 0;
}

inline gantry_status fail(const gantry_call *call, gantry_status status, const char *message) {
    gantry::detail::report(call, status, 0, message, nullptr);
    return status;
}

/// A call that never heard of cancellation and deadlines.
inline gantry_call deaf(const gantry_call *call) {
    gantry_call out = *call;
    out.cancel_fd = -1;
    out.deadline_ns = 0;
    return out;
}

/// A lock that a kill leaves behind for ever: held while `work` runs.
template <typename Work>
gantry_status with_stale_lock(const gantry_call *call, const std::string &file, Work work) {
    const int fd = open(file.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) return fail(call, GANTRY_UNAVAILABLE, "lock: somebody is at work already");
    close(fd);
    const gantry_status status = work();
    unlink(file.c_str());
    return status;
}

/// What any driver can do wrong while it starts.
inline void at_create(const gantry::Environment &) {
    static int instances = 0;
    if (is("second-start") && ++instances > 1)
        throw gantry::Error(gantry::ErrorClass::kInternal, "create driver: it was started before");
    if (is("leaked-descriptor") && open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) abort();
    if (is("inherited-descriptor") && open("/dev/null", O_RDONLY) < 0)
        abort(); // NOLINT(android-cloexec-open)
    if (is("prints")) printf("hello from a driver\n"), fflush(stdout);
    if (is("one-per-host")) {
        // A name that all engines of a host share; it goes with the process.
        sockaddr_un name{};
        name.sun_family = AF_UNIX;
        memcpy(name.sun_path + 1, "gantry-faulty", 13);
        static pid_t holder = 0; // a fork inherits the name and is another engine
        if (holder != getpid()) {
            holder = getpid();
            const int held = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
            if (bind(held, reinterpret_cast<sockaddr *>(&name), offsetof(sockaddr_un, sun_path) + 14) != 0)
                throw gantry::Error(gantry::ErrorClass::kUnavailable, "create driver: another engine has it");
        }
    }
}

/// What any call can do wrong.
inline void at_call() {
    if (is("hang"))
        for (;;)
            pause();
    if (is("crash")) raise(SIGSEGV);
    if (is("exit")) _exit(0);
    if (is("throw")) throw 42;
}

inline gantry_status probe(const gantry_call *call, const gantry_environment *env,
                           const gantry_value *config) {
    if (is("probe-writes")) {
        const std::string root = env->root;
        mkdir(root.substr(0, root.rfind('/')).c_str(), 0755);
        mkdir(root.c_str(), 0755);
    }
    return gantry::detail::kProbeTable.probe(call, env, config);
}
inline const gantry_probe_1 kProbe{sizeof(gantry_probe_1), 0, probe};

#ifdef FAULTY_ENTRY
inline constexpr char kText[] = "a description\nof two lines";
#else
inline constexpr char kText[] = "a driver that breaks the rule that GANTRY_FAULT names";
#endif
#ifdef FAULTY_OPTIONS
inline const gantry_option kOptions[] = {gantry::option_string("anything", "\"\"", "")};
#else
inline constexpr std::array<gantry_option, 0> kOptions{};
#endif

} // namespace faulty

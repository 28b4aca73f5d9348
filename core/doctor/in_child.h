// Runs a probe in a forked child, so that the namespaces and mounts it makes end with it.
#pragma once

#include <cerrno>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry::doctor {

/// `probe` returns 0 or an errno below 255; so does this. The child runs on a copy of the caller's memory and
/// must not return. For single-threaded callers.
template <typename Probe> int in_child(Probe &&probe) {
    const pid_t child = fork();
    if (child < 0) return errno;
    if (child == 0) _exit(probe());
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : EPROTO;
}

} // namespace gantry::doctor

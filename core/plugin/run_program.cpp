// Helper programs of drivers. posix_spawn and not fork: the engine has many threads and much memory.
// The program leads a process group, so that a kill reaches what it started; a pidfd makes its end one
// more thing to poll.
#include "core/plugin/services.h"

#include "core/base/fd.h"

#include <gantry/thunk.hpp>

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {
namespace {

struct Pipe {
    UniqueFd read, write;
    Pipe() {
        int fds[2];
        if (::pipe2(fds, O_CLOEXEC) != 0) throw Error::from_errno(errno, "make pipe");
        read.reset(fds[0]);
        write.reset(fds[1]);
    }
};

/// Kills the group and reaps the leader unless that has been done.
struct Child {
    pid_t pid = -1;
    bool reaped = false;
    int wait() {
        int status = 0;
        while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        reaped = true;
        return status;
    }
    ~Child() {
        if (pid <= 0 || reaped) return;
        ::kill(-pid, SIGKILL);
        wait();
    }
};

/// False at the end of file.
bool pump(int fd, const gantry_byte_sink *sink) {
    char buffer[16384];
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0) return errno == EINTR || errno == EAGAIN;
    if (got == 0) return false;
    if (sink) detail::check_sink(sink->write(sink->ctx, buffer, static_cast<size_t>(got)));
    return true;
}

int spawn(const char *const *argv, Child &child, int in, int out, int err) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    // The pipes' ends lie above 2 (the engine keeps 0 to 2 open), so dup2 drops close-on-exec.
    posix_spawn_file_actions_adddup2(&actions, in, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, err, 2);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    const char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                       "LANG=C", nullptr};
    const int error = ::posix_spawn(&child.pid, argv[0], &actions, &attributes,
                                    const_cast<char *const *>(argv), const_cast<char *const *>(environment));
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (error) child.pid = -1;
    return error;
}

} // namespace

gantry_status run_program(const gantry_call *raw, const char *const *argv, const void *input,
                          size_t input_size, const gantry_byte_sink *out, const gantry_byte_sink *err,
                          int32_t *exit_code) {
    return detail::guard(raw, [&] {
        if (!argv || !argv[0] || argv[0][0] != '/')
            throw Error(ErrorClass::kInvalidArgument, "run program: argv[0] must be an absolute path");
        const Call call(raw);
        const std::string doing = std::string("run ") + argv[0];
        Child child;
        Pipe in, from_out, from_err;
        if (const int error = spawn(argv, child, in.read.get(), from_out.write.get(), from_err.write.get()))
            throw Error::from_errno(error, doing);
        in.read.reset();
        from_out.write.reset();
        from_err.write.reset();
        // A write to a program that has closed its input must give EPIPE here, not SIGPIPE: the engine
        // ignores the signal, and a test program that does not is no business of a plugin.
        UniqueFd done(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0)));
        if (!done) throw Error::from_errno(errno, doing);
        for (const int fd : {in.write.get(), from_out.read.get(), from_err.read.get()})
            if (::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) throw Error::from_errno(errno, doing);
        size_t written = 0;
        if (input_size == 0) in.write.reset();
        bool ended = false;
        while (!ended) {
            pollfd p[] = {{done.get(), POLLIN, 0},
                          {in.write.get(), POLLOUT, 0},
                          {from_out.read.get(), POLLIN, 0},
                          {from_err.read.get(), POLLIN, 0},
                          {call.cancel_fd(), POLLIN, 0}};
            if (::poll(p, 5, call.remaining_ms()) < 0 && errno != EINTR)
                throw Error::from_errno(errno, doing);
            call.check(doing);
            ended = p[0].revents != 0;
            if (p[1].revents) {
                const ssize_t n =
                    ::write(in.write.get(), static_cast<const char *>(input) + written, input_size - written);
                if (n > 0) written += static_cast<size_t>(n);
                if ((n < 0 && errno != EAGAIN && errno != EINTR) || written == input_size) in.write.reset();
            }
            if (p[2].revents && !pump(from_out.read.get(), out)) from_out.read.reset();
            if (p[3].revents && !pump(from_err.read.get(), err)) from_err.read.reset();
        }
        // What was written before the end is still in the pipes; a background child that holds them
        // open is not waited for.
        for (auto [fd, sink] : {std::pair{from_out.read.get(), out}, std::pair{from_err.read.get(), err}}) {
            pollfd p{fd, POLLIN, 0};
            while (fd >= 0 && ::poll(&p, 1, 0) > 0 && pump(fd, sink))
                call.check(doing);
        }
        const int status = child.wait();
        if (exit_code) *exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    });
}

} // namespace gantry

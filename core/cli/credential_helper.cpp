// The protocol of docker-credential-helpers: one word as argument, one document in, one out. Errors come on
// standard output too. A helper may ask the user for a passphrase, so there is no time limit.
#include "core/cli/registry_auth.h"

#include "core/base/fd.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace gantry::cli {
namespace {

constexpr size_t kMaxOutput = 1 << 20;

struct Pipe {
    UniqueFd read, write;
    Pipe() {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "make pipe");
        read.reset(ends[0]);
        write.reset(ends[1]);
    }
};

} // namespace

std::string run_credential_helper(const std::string &name, const std::string &action,
                                  const std::string &input) {
    const std::string program = "docker-credential-" + name;
    const bool good = !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
        return ::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
    });
    if (!good) throw Error(ErrorClass::kInvalidArgument, "run credential helper: bad name \"" + name + "\"");

    Pipe in, out;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in.read.get(), 0);
    posix_spawn_file_actions_adddup2(&actions, out.write.get(), 1);
    std::string word = action, argument = program;
    char *argv[] = {argument.data(), word.data(), nullptr};
    pid_t child = -1;
    const int failed = ::posix_spawnp(&child, program.c_str(), &actions, nullptr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0)
        throw Error(ErrorClass::kUnavailable,
                    "run " + program + ": " + Error::from_errno(failed, "start it").message(),
                    "config.json names it in credsStore or credHelpers");
    in.read.reset();
    out.write.reset();

    struct sigaction ignore {
    }, before{};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &before);
    std::string output;
    bool too_long = false;
    size_t sent = 0;
    if (input.empty()) in.write.reset();
    for (bool open = true; open;) {
        pollfd fds[2] = {{out.read.get(), POLLIN, 0}, {in.write ? in.write.get() : -1, POLLOUT, 0}};
        if (::poll(fds, 2, -1) < 0) {
            if (errno == EINTR) continue;
            break;
        }
        if (fds[1].revents) {
            // What a pipe takes without blocking.
            const ssize_t n =
                ::write(in.write.get(), input.data() + sent, std::min<size_t>(input.size() - sent, 4096));
            if (n > 0) sent += static_cast<size_t>(n);
            if (n <= 0 || sent == input.size()) in.write.reset();
        }
        if (fds[0].revents) {
            char buffer[16384];
            const ssize_t n = ::read(out.read.get(), buffer, sizeof buffer);
            if (n <= 0) open = false;
            if (n > 0 && output.size() + static_cast<size_t>(n) <= kMaxOutput)
                output.append(buffer, static_cast<size_t>(n));
            else if (n > 0)
                too_long = true, open = false;
        }
    }
    out.read.reset();
    in.write.reset();
    if (too_long) ::kill(child, SIGTERM);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    sigaction(SIGPIPE, &before, nullptr);
    if (too_long)
        throw Error(ErrorClass::kDataLoss, "run " + program + " " + action + ": its answer is endless");
    while (!output.empty() && (output.back() == '\n' || output.back() == '\r'))
        output.pop_back();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return output;
    if (output.find("credentials not found") != std::string::npos)
        throw Error(ErrorClass::kNotFound, "run " + program + " " + action + ": " + output.substr(0, 200));
    throw Error(ErrorClass::kUnavailable,
                "run " + program + " " + action + ": " +
                    (output.empty() ? "it failed without a word" : output.substr(0, 500)));
}

} // namespace gantry::cli

// Each case in a child process with a process namespace of its own: what a plugin does to a process
// (descriptors, mounts, children, daemons, a crash) is seen there and ends with it. The child tells its
// verdict through a pipe; silence is a verdict too.
#include "kit.h"

#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

using Clock = std::chrono::steady_clock;

/// The child's part; never returns.
[[noreturn]] void run_in_child(const Case &one, const Subject &subject, const std::string &dir, int verdict,
                               bool verbose) {
    setpgid(0, 0);
    set_log_level(verbose ? LogLevel::kDebug : LogLevel::kError);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    if (!verbose) {
        dup2(null, 1);
        dup2(null, 2);
    }
    char state = 'p';
    std::string message;
    try {
        if (geteuid() == 0 &&
            (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
             mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0))
            throw Skipped("/proc of a process namespace cannot be mounted: " + std::string(strerror(errno)));
        one.run(subject, dir);
    } catch (const Skipped &skipped) {
        state = 's';
        message = skipped.what();
    } catch (const Failed &failed) {
        state = 'f';
        message = failed.what();
    } catch (const Error &error) {
        state = 'f';
        message = error.message();
    } catch (const std::exception &error) {
        state = 'f';
        message = error.what();
    }
    message.insert(message.begin(), state);
    if (message.size() > 60000) message.resize(60000);
    write_all(verdict, message, "verdict");
    _exit(0);
}

/// The first process of the case's namespace; all others end with it. It reaps what daemons leave, so a
/// plugin's helper that ended is gone and not a corpse. Ends as the case does.
[[noreturn]] void be_init(const std::function<void()> &run) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const pid_t child = fork();
    if (child == 0) run();
    for (int status = 0;;) {
        const pid_t ended = wait(&status);
        if (ended == child) _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        if (ended < 0 && errno != EINTR) _exit(1);
    }
}

/// As fork, in new namespaces for processes and mounts where that can be had.
pid_t fork_apart() {
    if (geteuid() != 0) return fork();
    return pid_t(
        syscall(SYS_clone, SIGCHLD | CLONE_NEWPID | CLONE_NEWNS, nullptr, nullptr, nullptr, nullptr));
}

/// Reads the verdict until the end of file or the limit.
bool read_verdict(int fd, int limit_s, std::string &out) {
    const auto end = Clock::now() + std::chrono::seconds(limit_s);
    for (;;) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd waiting{fd, POLLIN, 0};
        const int ready = left <= 0 ? 0 : poll(&waiting, 1, int(left));
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return false;
        char buffer[4096];
        const ssize_t got = read(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return true;
        out.append(buffer, size_t(got));
    }
}

void await_end(pid_t child) {
    siginfo_t ended{};
    for (int i = 0; i < 200 && ended.si_pid == 0; ++i) {
        if (waitid(P_PID, id_t(child), &ended, WEXITED | WNOHANG | WNOWAIT) != 0) return;
        if (ended.si_pid == 0) usleep(5'000);
    }
}

Result run_case(const Case &one, const Subject &subject, const Plan &plan) {
    Result result{Result::kFailed, one.name, one.promise, "", 0};
    if (one.needs_root && geteuid() != 0) {
        result.state = Result::kSkipped;
        result.message = "needs root: mounts, devices and owners";
        return result;
    }
    const auto begin = Clock::now();
    const std::string dir = plan.dir + "/gantry-check-" + random_hex(6);
    make_directories(dir, 0755);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "make pipe");
    UniqueFd from(ends[0]), to(ends[1]);
    const pid_t child = fork_apart();
    if (child < 0) throw Error::from_errno(errno, "make process and mount namespaces for a case");
    if (child == 0) {
        from.reset();
        be_init([&] { run_in_child(one, subject, dir, to.get(), plan.verbose); });
    }
    to.reset();
    std::string verdict;
    const int limit_s = plan.limit_s > 0 ? plan.limit_s : one.limit_s;
    const bool in_time = read_verdict(from.get(), limit_s, verdict);
    int status = 0;
    // The pipe ends a moment before the case does; what it ended by is worth a sentence.
    if (verdict.empty() && in_time) await_end(child);
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!verdict.empty()) {
        result.state = verdict[0] == 'p'   ? Result::kPassed
                       : verdict[0] == 's' ? Result::kSkipped
                                           : Result::kFailed;
        result.message = verdict.substr(1);
    } else if (!in_time) {
        result.message = "did not end within " + std::to_string(limit_s) + " seconds";
    } else if (WIFEXITED(status) && WEXITSTATUS(status) > 128) {
        result.message =
            std::string("the process ended by a signal: ") + strsignal(WEXITSTATUS(status) - 128);
    } else {
        result.message = "the plugin ended the process with exit code " + std::to_string(WEXITSTATUS(status));
    }
    try {
        remove_tree(dir);
    } catch (const std::exception &error) {
        if (result.state != Result::kFailed) {
            result.state = Result::kFailed;
            result.message = std::string("the case's directory cannot be removed: ") + error.what();
        }
    }
    result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    return result;
}

std::string indented(const std::string &text) {
    std::string out = "        ";
    for (char c : text) {
        out += c;
        if (c == '\n') out += "        ";
    }
    return out;
}

void print(const Result &result, bool colour) {
    static constexpr const char *kWords[] = {"ok  ", "skip", "FAIL"},
                                *kColours[] = {"\033[32m", "\033[36m", "\033[1;31m"};
    const std::string word = colour ? std::string(kColours[result.state]) + kWords[result.state] + "\033[0m"
                                    : kWords[result.state];
    printf("  %s  %-38s %s\n", word.c_str(), result.name.c_str(), result.promise.c_str());
    if (!result.message.empty()) printf("%s\n", indented(result.message).c_str());
    fflush(stdout);
}

} // namespace

int judge(const Subject &subject, const Plan &plan) {
    std::vector<Case> cases = common_cases();
    auto add = [&](std::vector<Case> more) { cases.insert(cases.end(), more.begin(), more.end()); };
    switch (subject.entry->kind) {
    case GANTRY_KIND_STORAGE:
        add(storage_cases());
        add(storage_tree_cases());
        add(storage_kill_cases());
        break;
    case GANTRY_KIND_NETWORK:
        add(network_cases());
        add(network_kill_cases());
        break;
    case GANTRY_KIND_REGISTRY: add(registry_cases()); break;
    }
    if (!plan.filter.empty())
        std::erase_if(cases, [&](const Case &one) { return !strstr(one.name, plan.filter.c_str()); });
    if (plan.list) {
        for (const Case &one : cases)
            printf("%-40s %s\n", one.name, one.promise);
        return 0;
    }
    static constexpr const char *kKinds[] = {"", "storage", "network", "registry"};
    printf("%s driver %s %s (%s)\n", kKinds[subject.entry->kind], subject.entry->name, subject.entry->version,
           subject.file.empty() ? "linked in" : subject.file.c_str());
    fflush(stdout); // a child must not print it again
    std::vector<Result> results;
    for (const Case &one : cases) {
        results.push_back(run_case(one, subject, plan));
        print(results.back(), plan.colour);
    }
    const auto count = [&](Result::State state) {
        return std::count_if(results.begin(), results.end(),
                             [&](const Result &r) { return r.state == state; });
    };
    const auto failed = count(Result::kFailed), passed = count(Result::kPassed),
               skipped = count(Result::kSkipped);
    printf("%zu cases: %td passed, %td failed, %td skipped: %s\n", results.size(), passed, failed, skipped,
           failed             ? "the driver breaks its contract"
           : passed == 0      ? "nothing was judged"
           : passed < skipped ? geteuid() == 0 ? "no breach, but little could be judged here"
                                               : "no breach, but little can be judged without root"
                              : "the driver keeps its contract");
    if (!plan.junit.empty()) write_file_atomically(plan.junit, as_junit(subject, results), 0644, false);
    return failed ? 1 : passed ? 0 : 2;
}

std::string as_junit(const Subject &subject, const std::vector<Result> &results) {
    auto escape = [](const std::string &text) {
        std::string out;
        for (char c : text) {
            if (c == '<')
                out += "&lt;";
            else if (c == '>')
                out += "&gt;";
            else if (c == '&')
                out += "&amp;";
            else if (c == '"')
                out += "&quot;";
            else if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t')
                out += c;
            else
                out += '?'; // XML 1.0 has no way to write it
        }
        return out;
    };
    size_t failed = 0, skipped = 0;
    double seconds = 0;
    std::string cases;
    for (const Result &result : results) {
        failed += result.state == Result::kFailed;
        skipped += result.state == Result::kSkipped;
        seconds += result.seconds;
        char time[32];
        snprintf(time, sizeof time, "%.3f", result.seconds);
        cases += "  <testcase classname=\"" + escape(subject.entry->name) + "\" name=\"" +
                 escape(result.name) + "\" time=\"" + time + "\"";
        if (result.state == Result::kPassed)
            cases += "/>\n";
        else if (result.state == Result::kSkipped)
            cases += "><skipped message=\"" + escape(result.message) + "\"/></testcase>\n";
        else
            cases += "><failure message=\"" + escape(result.promise) + "\">" + escape(result.message) +
                     "</failure></testcase>\n";
    }
    char head[256];
    snprintf(head, sizeof head, "tests=\"%zu\" failures=\"%zu\" skipped=\"%zu\" time=\"%.3f\"",
             results.size(), failed, skipped, seconds);
    return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"gantry plugin check " +
           escape(subject.entry->name) + "\" " + head + ">\n" + cases + "</testsuite>\n";
}

} // namespace gantry::kit

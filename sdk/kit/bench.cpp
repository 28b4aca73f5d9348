#include "bench.h"

#include "core/base/files.h"
#include "core/config/config.h"

#include <algorithm>
#include <barrier>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <net/if.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace gantry::kit {

const char *class_name(gantry_status status) {
    static constexpr const char *kNames[] = {"ok",
                                             "not found",
                                             "already exists",
                                             "failed precondition",
                                             "invalid argument",
                                             "unsupported",
                                             "unavailable",
                                             "permission denied",
                                             "no space",
                                             "data loss",
                                             "cancelled",
                                             "deadline",
                                             "internal"};
    return status >= 0 && size_t(status) < std::size(kNames) ? kNames[status] : "a class that does not exist";
}

RecordedCall::RecordedCall() {
    sink_.struct_size = sizeof sink_;
    sink_.ctx = &report_;
    sink_.set = [](void *ctx, gantry_status status, int32_t, const char *message, const char *) {
        auto &report = *static_cast<Report *>(ctx);
        ++report.count;
        report.status = status;
        report.whole = message && strnlen(message, 4096) < 4096;
        if (report.whole) report.message = message;
    };
    call_.struct_size = sizeof call_;
    call_.cancel_fd = -1;
    call_.error = &sink_;
    call_.subject = "conformance";
    call_.ctx = &logged_;
    call_.log = [](void *ctx, int32_t, const char *message) {
        *static_cast<std::string *>(ctx) += std::string(message ? message : "") + "\n";
    };
}

void RecordedCall::cancel_later() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "make pipe");
    cancel_read_.reset(ends[0]);
    cancel_write_.reset(ends[1]);
    call_.cancel_fd = ends[0];
}
void RecordedCall::cancel_now() { write_all(cancel_write_.get(), "x", "cancellation"); }
void RecordedCall::cancel_at_once() {
    cancel_later();
    cancel_now();
}

void RecordedCall::deadline_in_ms(int64_t left) { call_.deadline_ns = Call::now_ns() + left * 1'000'000; }
void RecordedCall::deadline_passed() { call_.deadline_ns = Call::now_ns() - 1; }

void RecordedCall::require_report(gantry_status status, const std::string &doing) const {
    require(status >= 0 && status <= GANTRY_INTERNAL,
            doing + ": returned " + std::to_string(status) + ", which is no class");
    if (status == GANTRY_OK) {
        require(report_.count == 0, doing + ": reported \"" + report_.message + "\" and returned ok");
        return;
    }
    require(report_.count == 1, doing + ": returned \"" + class_name(status) + "\" and reported " +
                                    std::to_string(report_.count) + " times instead of once");
    require(report_.whole && !report_.message.empty(), doing + ": the report is not a sentence");
    require(report_.status == status, doing + ": returned \"" + class_name(status) + "\" but reported \"" +
                                          class_name(report_.status) + "\"");
}

void RecordedCall::require_class(gantry_status status, std::initializer_list<gantry_status> wanted,
                                 const std::string &doing) const {
    if (std::find(wanted.begin(), wanted.end(), status) == wanted.end()) {
        std::string names;
        for (gantry_status one : wanted)
            names += (names.empty() ? "" : " or ") + std::string(class_name(one));
        throw Failed(doing + ": expected \"" + names + "\", got \"" + class_name(status) + "\"" +
                     (report_.message.empty() ? "" : ": " + report_.message));
    }
    require_report(status, doing);
}

void RecordedCall::require_ok(gantry_status status, const std::string &doing) const {
    require_class(status, {GANTRY_OK}, doing);
}

namespace {

std::shared_ptr<const gantry_value> options_of(const Subject &subject) {
    static constexpr const char *kKinds[] = {"", "storage", "network", "registry"};
    const DriverSchema schema{subject.entry->kind, subject.entry->name, subject.entry->options,
                              subject.entry->option_count};
    EngineSettings::Sources sources;
    for (const auto &[key, value] : subject.options)
        sources.flags.emplace_back(std::string(kKinds[schema.kind]) + "." + schema.name + "." + key, value);
    // The value borrows from the settings; both stay for the process.
    static std::vector<std::shared_ptr<const EngineSettings>> kept;
    kept.push_back(EngineSettings::load(sources));
    return kept.back()->driver_options(schema);
}

std::string libexec() {
    char self[4096];
    const ssize_t size = readlink("/proc/self/exe", self, sizeof self);
    std::string path(self, size > 0 ? size_t(size) : 0);
    for (int up = 0; up < 2; ++up) {
        path.resize(path.rfind('/') == path.npos ? 0 : path.rfind('/'));
        for (const char *below : {"", "/lib/gantry"})
            if ((access((path + below + "/gantry-shim").c_str(), X_OK) == 0 ||
                 access((path + below + "/gantry-portd").c_str(), X_OK) == 0))
                return path + below;
    }
    return "/usr/lib/gantry";
}

} // namespace

Bench::Bench(const Subject &subject, const std::string &dir) : subject_(subject) {
    start_.root = dir + "/root";
    start_.run = dir + "/run";
    for (const std::string &made : {start_.root, start_.run})
        make_directories(made, 0700);
    start_.libexec = libexec();
    start_.engine_id = "k" + dir.substr(dir.size() > 7 ? dir.size() - 7 : 0);
    start_.config = options_of(subject);
    db_ = std::make_unique<Db>(dir + "/kit.db");
    services_ = std::make_unique<PluginServices>(subject.entry->name, db_.get());
    plugin_ = std::make_shared<LoadedPlugin>(*subject.entry, subject.file);
    const CallScope call;
    try {
        plugin_->init(services_->raw(), call);
        instance_ = std::make_shared<Instance>(plugin_, start_, call);
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kUnsupported ||
            error.error_class() == ErrorClass::kFailedPrecondition)
            throw Skipped("the driver does not work here: " + error.message());
        throw;
    }
}

Bench::~Bench() { close(); }

// On this thread and without the engine's limits: the case has one of its own.
void Bench::destroy() {
    if (instance_) plugin_->entry.destroy(std::exchange(instance_->driver, nullptr));
    instance_.reset();
}

void Bench::close() {
    destroy();
    if (plugin_) plugin_->deinit();
    plugin_.reset();
}

void Bench::reopen() {
    destroy();
    const CallScope call;
    instance_ = std::make_shared<Instance>(plugin_, start_, call);
}

Footprint Footprint::take() {
    Footprint out;
    for (const std::string &name : list_directory("/proc/self/fd")) {
        char target[512] = {};
        if (readlink(("/proc/self/fd/" + name).c_str(), target, sizeof target - 1) <= 0) continue;
        const std::string what = target;
        if (what.starts_with("/proc/")) continue; // of this very look
        out.descriptors[atoi(name.c_str())] = what;
    }
    bool found = false;
    out.mounts = read_file_if("/proc/self/mountinfo", found);
    char here[4096];
    out.directory = getcwd(here, sizeof here) ? here : "";
    for (const std::string &name : list_directory("/proc")) {
        if (name.find_first_not_of("0123456789") != name.npos || name == "1" ||
            atoi(name.c_str()) == getpid())
            continue;
        const std::string facts = read_file_if("/proc/" + name + "/stat", found);
        const size_t behind = facts.rfind(") ");
        char state = 'Z';
        int parent = 0;
        if (!found || behind == facts.npos ||
            sscanf(facts.c_str() + behind + 2, "%c %d", &state, &parent) != 2)
            continue;
        // Without a namespace of its own a case sees all of the machine; its children are its own.
        if (state != 'Z' && (getppid() == 1 || parent == getpid()))
            out.processes[name] = facts.substr(facts.find('('), behind + 1 - facts.find('('));
    }
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    for (int signal = 1; signal < 32; ++signal)
        out.mask += sigismember(&mask, signal) == 1 ? '1' : '0';
    out.file_mask = umask(022);
    umask(out.file_mask);
    if (struct if_nameindex *names = if_nameindex()) {
        for (auto *one = names; one->if_index; ++one)
            out.links.insert(one->if_name);
        if_freenameindex(names);
    }
    return out;
}

std::string Footprint::changes_since(const Footprint &before) const {
    std::string out;
    for (const auto &[number, what] : descriptors)
        if (!before.descriptors.contains(number) || before.descriptors.at(number) != what)
            out += "descriptor " + std::to_string(number) + " is left open: " + what + "\n";
    for (const auto &[number, what] : before.descriptors)
        if (!descriptors.contains(number))
            out += "descriptor " + std::to_string(number) + " was closed: " + what + "\n";
    if (mounts != before.mounts) out += "the table of mounts changed\n";
    if (directory != before.directory) out += "the working directory changed to " + directory + "\n";
    if (mask != before.mask) out += "the signal mask changed\n";
    if (file_mask != before.file_mask) out += "the file mode creation mask changed\n";
    for (const auto &[number, name] : processes)
        if (!before.processes.contains(number)) out += "process " + number + " " + name + " is left behind\n";
    for (const std::string &link : links)
        if (!before.links.contains(link)) out += "network link " + link + " is left behind\n";
    if (!out.empty()) out.pop_back();
    return out;
}

bool kill_before_call(size_t n, const std::function<void()> &prepare, const std::function<void()> &work,
                      size_t &total) {
    const pid_t child = fork();
    if (child < 0) throw Error::from_errno(errno, "fork");
    if (child == 0) {
        try {
            prepare();
            ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
            raise(SIGSTOP);
            work();
            _exit(0);
        } catch (const std::exception &error) {
            fprintf(stderr, "%s\n", error.what());
            _exit(1);
        }
    }
    int status = 0;
    auto await = [&] {
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR) throw Error::from_errno(errno, "wait for the process under trace");
    };
    await();
    require(WIFSTOPPED(status), "the preparation failed or ended the process");
    ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
    size_t calls = 0;
    bool entering = true;
    for (long signal = 0;;) {
        ptrace(PTRACE_SYSCALL, child, nullptr, signal);
        signal = 0;
        await();
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            require(WIFEXITED(status) && WEXITSTATUS(status) == 0,
                    "the call failed or ended the process after " + std::to_string(calls) + " system calls");
            total = calls;
            return false;
        }
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
            signal = WSTOPSIG(status);
            continue;
        }
        if (entering && ++calls == n) {
            kill(child, SIGKILL);
            do
                await();
            while (!WIFEXITED(status) && !WIFSIGNALED(status));
            return true;
        }
        entering = !entering;
    }
}

void kill_at_each_call(size_t points, const std::function<bool(size_t n, size_t &total)> &round) {
    size_t last = 0, ignored = 0;
    round(SIZE_MAX, last); // how many there are
    require(last > 0, "the step makes no system call");
    const size_t stride = last > points ? last / points : 1;
    for (size_t n = 1; n <= last; n += stride)
        if (!round(n, ignored)) break;
}

void in_parallel(int count, const std::function<void(int)> &work) {
    std::vector<std::exception_ptr> failures(static_cast<size_t>(count));
    std::vector<std::thread> threads;
    std::barrier begin(count);
    for (int i = 0; i < count; ++i)
        threads.emplace_back([&, i] {
            begin.arrive_and_wait();
            try {
                work(i);
            } catch (...) {
                failures[size_t(i)] = std::current_exception();
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    for (const std::exception_ptr &failure : failures)
        if (failure) std::rethrow_exception(failure);
}

} // namespace gantry::kit

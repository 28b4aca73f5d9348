// The engine's side of the shims: spawns them from one sealed memfd, tells them what to do, and
// waits for all exits in one thread. Starting is synchronous on the shim's socket and takes no lock;
// only a started task joins the event thread's epoll set.
#include "core/runtime/runtime.h"

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/runtime/capabilities.h"
#include "core/runtime/cgroups.h"
#include "core/runtime/control.h"
#include "core/runtime/plan_writer.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <fcntl.h>
#include <fmt/format.h>
#include <map>
#include <mutex>
#include <poll.h>
#include <spawn.h>
#include <sstream>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int kStartTimeoutMs = 60000;
constexpr int kStatusTimeoutMs = 2000; // a shim answers in microseconds unless it is stopped

std::optional<ExitStatus> read_exit(const std::string &path) {
    bool found = false;
    if (path.empty()) return std::nullopt;
    std::istringstream lines(read_file_if(path, found, 4096));
    if (!found) return std::nullopt;
    ExitStatus status;
    bool complete = false;
    for (std::string line; std::getline(lines, line);) {
        size_t equals = line.find('=');
        if (equals == std::string::npos) continue;
        std::string key = line.substr(0, equals);
        int64_t value = strtoll(line.c_str() + equals + 1, nullptr, 10);
        if (key == "code")
            status.code = int(value), complete = true;
        else if (key == "signal")
            status.signal = int(value);
        else if (key == "oom_killed")
            status.oom_killed = value != 0;
        else if (key == "finished_ns")
            status.finished_ns = value;
    }
    return complete ? std::optional(status) : std::nullopt;
}

ExitStatus from_wait(uint32_t wait_status, bool oom, int64_t time_ns) {
    ExitStatus status;
    int raw = int(wait_status);
    status.signal = WIFSIGNALED(raw) ? WTERMSIG(raw) : 0;
    status.code = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + status.signal;
    status.oom_killed = oom;
    status.finished_ns = time_ns;
    return status;
}

/// What is known of one shim, sandbox or task.
struct Shim {
    std::string id, dir;
    UniqueFd control, pidfd, netns;
    pid_t shim_pid = 0, pid = 0;
    bool child_of_ours = false, exec = false;
    std::vector<std::string> cgroups;

    void reap() {
        if (child_of_ours && shim_pid > 0) waitpid(shim_pid, nullptr, 0);
        child_of_ours = false;
    }
    /// Ends a shim whose process was not started.
    void end() noexcept {
        if (control) try {
                send_packet(control.get(), plan::kEnd, 0, 0, "", {});
            } catch (const Error &) {
            }
        control.reset();
        reap();
        forget();
    }
    void forget() noexcept try {
        if (!dir.empty()) remove_tree(dir);
    } catch (const Error &error) {
        log_warn("remove {}: {}", dir, error.message());
    }
};

class SandboxImpl : public Sandbox {
  public:
    explicit SandboxImpl(Shim shim) : shim_(std::move(shim)) {}
    ~SandboxImpl() override {
        if (shim_.control) shim_.end();
    }
    const std::string &id() const override { return shim_.id; }
    int netns_fd() const override { return shim_.netns.get(); }
    pid_t init_pid() const override { return shim_.pid; }
    Shim shim_;
};

class TaskImpl : public Task {
  public:
    TaskImpl(Shim shim, const CgroupLayout *layout, std::string group, std::string exit_path)
        : shim_(std::move(shim)), layout_(layout), group_(std::move(group)), exit_path_(std::move(exit_path)),
          id_(shim_.id) {}

    const std::string &id() const override { return id_; }
    pid_t shim_pid() const override { return shim_.shim_pid; }
    pid_t pid() const override {
        std::lock_guard lock(mutex_);
        return started_ && !exit_ ? shim_.pid : 0;
    }
    void kill(int signal) override {
        std::lock_guard lock(mutex_);
        if (exit_ || syscall(SYS_pidfd_send_signal, shim_.pidfd.get(), signal, nullptr, 0) != 0) {
            int error = exit_ ? ESRCH : errno;
            throw Error::from_errno(error, fmt::format("signal container {}", id_));
        }
    }
    void kill_all(int signal) override {
        if (shim_.exec || shim_.cgroups.empty()) return kill(signal);
        bool any = false;
        // A fork between read and kill escapes one round.
        for (int round = 0; round < (signal == SIGKILL ? 5 : 1); round++) {
            auto pids = cgroup_pids(shim_.cgroups.front());
            if (pids.empty()) break;
            for (pid_t pid : pids) {
                UniqueFd fd(int(syscall(SYS_pidfd_open, pid, 0)));
                if (!fd) continue;
                auto still = round == 0 ? std::vector<pid_t>{pid} : cgroup_pids(shim_.cgroups.front());
                if (std::find(still.begin(), still.end(), pid) != still.end() &&
                    syscall(SYS_pidfd_send_signal, fd.get(), signal, nullptr, 0) == 0)
                    any = true;
            }
        }
        if (!any) kill(signal);
    }
    void kill_group(int signal) override { send(plan::kKill, uint32_t(signal), 1, "", {}); }
    void pause(bool frozen) override { freeze_cgroup(*layout_, group_, frozen); }
    void resize(uint16_t height, uint16_t width) override { send(plan::kResize, height, width, "", {}); }
    void attach(UniqueFd connection, const AttachOptions &options) override {
        uint32_t flags = (options.stdin_ ? uint32_t(plan::kAttachIn) : 0u) |
                         (options.stdout_ ? uint32_t(plan::kAttachOut) : 0u) |
                         (options.stderr_ ? uint32_t(plan::kAttachErr) : 0u) |
                         (options.multiplexed ? uint32_t(plan::kAttachFramed) : 0u);
        send(plan::kAttach, flags, 0, options.detach_keys.substr(0, 16), {connection.get()});
    }
    std::optional<ExitStatus> exit_status() const override {
        std::lock_guard lock(mutex_);
        return exit_;
    }
    bool process_ended() const override {
        UniqueFd fd;
        {
            std::lock_guard lock(mutex_);
            if (exit_) return true;
            if (!shim_.pidfd) return false;
            fd = shim_.pidfd.dup();
        }
        pollfd ended{fd.get(), POLLIN, 0};
        return poll(&ended, 1, 0) > 0;
    }
    void on_exit(std::function<void(const ExitStatus &)> callback) override;
    std::optional<ExitStatus> wait(int timeout_ms) override {
        std::unique_lock lock(mutex_);
        auto ended = [&] { return exit_.has_value(); };
        if (timeout_ms < 0)
            changed_.wait(lock, ended);
        else
            changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), ended);
        return exit_;
    }
    std::vector<pid_t> pids() const override {
        if (shim_.exec || shim_.cgroups.empty())
            return pid() ? std::vector<pid_t>{pid()} : std::vector<pid_t>{};
        return cgroup_pids(shim_.cgroups.front());
    }
    UniqueFd netns() const override { return shim_.netns ? shim_.netns.dup() : UniqueFd(); }

    void send(uint32_t command, uint32_t a, uint32_t b, const std::string &text,
              const std::vector<int> &fds) {
        std::lock_guard lock(mutex_);
        if (exit_ || !shim_.control)
            throw Error(ErrorClass::kNotFound, fmt::format("container {} is not running", id_));
        send_packet(shim_.control.get(), command, a, b, text, fds);
    }
    std::function<void(const ExitStatus &)> finish(const ExitStatus &status) {
        std::lock_guard lock(mutex_);
        if (exit_) return {};
        exit_ = status;
        changed_.notify_all();
        return std::exchange(callback_, {});
    }
    void set_started() {
        std::lock_guard lock(mutex_);
        started_ = true;
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    Shim shim_;
    const CgroupLayout *layout_;
    std::string group_, exit_path_, id_;
    bool started_ = false;
    std::optional<ExitStatus> exit_;
    std::function<void(const ExitStatus &)> callback_;
    class EventThread *events_ = nullptr;
};

class EventThread {
  public:
    EventThread() {
        epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
        wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        epoll_event event{};
        event.events = EPOLLIN, event.data.fd = wake_.get();
        epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
        thread_ = std::thread([this] { run(); });
    }
    ~EventThread() {
        stop_ = true;
        poke();
        thread_.join();
    }
    void add(const std::shared_ptr<TaskImpl> &task) {
        task->events_ = this;
        int fd = task->shim_.control.get();
        {
            std::lock_guard lock(mutex_);
            tasks_[fd] = task;
        }
        epoll_event event{};
        event.events = EPOLLIN, event.data.fd = fd;
        epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
    }
    void post(std::function<void()> job) {
        {
            std::lock_guard lock(mutex_);
            jobs_.push_back(std::move(job));
        }
        poke();
    }

  private:
    void poke() {
        uint64_t one = 1;
        if (write(wake_.get(), &one, sizeof one) < 0) return;
    }
    void run() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, nullptr);
        epoll_event events[32];
        while (!stop_) {
            int n = epoll_wait(epoll_.get(), events, 32, -1);
            for (int i = 0; i < n; i++) {
                if (events[i].data.fd == wake_.get()) {
                    uint64_t count;
                    if (read(wake_.get(), &count, sizeof count) < 0) continue;
                } else {
                    handle(events[i].data.fd);
                }
            }
            std::vector<std::function<void()>> jobs;
            {
                std::lock_guard lock(mutex_);
                jobs.swap(jobs_);
            }
            for (auto &job : jobs)
                call(job);
        }
    }
    template <typename F, typename... A> void call(F &function, A &&...arguments) noexcept {
        try {
            function(std::forward<A>(arguments)...);
        } catch (const std::exception &error) {
            log_error("handle exit of a container: {}", error.what());
        }
    }
    void handle(int fd) {
        std::shared_ptr<TaskImpl> task;
        {
            std::lock_guard lock(mutex_);
            auto found = tasks_.find(fd);
            if (found == tasks_.end()) return;
            task = found->second;
        }
        Packet packet;
        bool more = false;
        try {
            more = receive_packet(fd, packet, 0);
        } catch (const Error &) {
            return;
        }
        if (more && packet.message.command == plan::kExited) {
            auto status = from_wait(packet.message.a, packet.message.b & 1, packet.message.time_ns);
            if (auto callback = task->finish(status)) call(callback, status);
        }
        if (more) return;
        // The shim is gone; the event was lost only if it was killed.
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
        {
            std::lock_guard lock(mutex_);
            tasks_.erase(fd);
        }
        {
            std::lock_guard lock(task->mutex_);
            task->shim_.control.reset();
        }
        if (!task->exit_status()) {
            ExitStatus status;
            if (auto recorded = read_exit(task->exit_path_)) {
                status = *recorded;
            } else {
                status.code = 137, status.signal = SIGKILL, status.finished_ns = wall_ns();
                log_error("container {}: its shim died", task->id_);
                if (!task->shim_.exec)
                    remove_cgroup_dirs(task->shim_.cgroups);
                else
                    syscall(SYS_pidfd_send_signal, task->shim_.pidfd.get(), SIGKILL, nullptr, 0);
            }
            if (auto callback = task->finish(status)) call(callback, status);
        }
        task->shim_.reap();
        task->shim_.forget();
    }

    UniqueFd epoll_, wake_;
    std::mutex mutex_;
    std::map<int, std::shared_ptr<TaskImpl>> tasks_;
    std::vector<std::function<void()>> jobs_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

void TaskImpl::on_exit(std::function<void(const ExitStatus &)> callback) {
    std::lock_guard lock(mutex_);
    if (!exit_) {
        callback_ = std::move(callback);
    } else {
        events_->post([callback = std::move(callback), status = *exit_] { callback(status); });
    }
}

class RuntimeImpl : public Runtime {
  public:
    explicit RuntimeImpl(const RuntimeSettings &settings) : settings_(settings), layout_(detect_cgroups()) {
        if (settings_.cgroup_parent.empty()) settings_.cgroup_parent = "/gantry";
        make_directories(settings_.run_dir + "/sandboxes", 0700);
        // Executed from a sealed copy: a container that reaches /proc/<pid>/exe of its parent finds
        // something nobody can write to, and all shims share its pages.
        std::string binary = read_file(settings_.shim_path, 64u << 20);
        image_.reset(memfd_create("gantry-shim", MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x10u /* MFD_EXEC */));
        if (!image_) image_.reset(memfd_create("gantry-shim", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        if (!image_) throw Error::from_errno(errno, "make copy of the shim");
        write_all(image_.get(), binary, "copy of the shim");
        fchmod(image_.get(), 0500);
        fcntl(image_.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    }

    std::unique_ptr<Sandbox> prepare(const std::string &id,
                                     const std::vector<SpecNamespace> &namespaces) override {
        Shim shim = spawn(id);
        try {
            shim.cgroups = make_cgroups(layout_, settings_.cgroup_parent, id);
            send_packet(shim.control.get(), plan::kPrepare, 0, 0, "",
                        {compile_sandbox(namespaces, shim.cgroups, false).memfd().get()});
            take_ready(shim);
        } catch (...) {
            shim.end();
            remove_cgroup_dirs(shim.cgroups);
            throw;
        }
        return std::make_unique<SandboxImpl>(std::move(shim));
    }

    std::shared_ptr<Task> start(std::unique_ptr<Sandbox> sandbox, const RuntimeSpec &spec,
                                const StartExtras &extras,
                                const std::function<void(Task &)> &before_start) override {
        auto *impl = dynamic_cast<SandboxImpl *>(sandbox.get());
        if (!impl)
            throw Error(ErrorClass::kInvalidArgument, "start container: not a sandbox of this runtime");
        CompileContext context = context_of(impl->shim_.id, impl->shim_.cgroups);
        context.root_path = impl->shim_.dir + "/rootfs";
        RuntimeSpec external = spec;
        if (!extras.external_runtime.empty()) write_bundle(external, extras, impl->shim_);
        // Compiled first: when that throws, the sandbox is still whole and ends itself.
        PlanWriter plan = compile_start(extras.external_runtime.empty() ? spec : external, extras, context);
        if (layout_.unified_only() && extras.external_runtime.empty() && !spec.resources.devices.empty())
            attach_device_program(impl->shim_.cgroups.front(), spec.resources.devices);
        return run(std::move(impl->shim_), plan, extras, before_start);
    }

    std::shared_ptr<Task> exec(Task &container, const std::string &exec_id, const RuntimeSpec &spec,
                               const StartExtras &extras,
                               const std::function<void(Task &)> &before_start) override {
        auto *target = dynamic_cast<TaskImpl *>(&container);
        UniqueFd target_fd;
        if (target) {
            std::lock_guard lock(target->mutex_);
            if (!target->exit_ && target->shim_.pidfd) target_fd = target->shim_.pidfd.dup();
        }
        if (!target_fd)
            throw Error(ErrorClass::kFailedPrecondition,
                        fmt::format("Container {} is not running", container.id()));
        StartExtras native = extras;
        native.external_runtime.clear();
        native.init = false;
        CompileContext context = context_of(exec_id, target->shim_.cgroups);
        context.exec = true;
        PlanWriter plan = compile_start(spec, native, context);
        Shim shim = spawn(exec_id);
        shim.exec = true;
        try {
            shim.cgroups = target->shim_.cgroups;
            send_packet(shim.control.get(), plan::kPrepare, 0, 0, "",
                        {compile_sandbox({}, shim.cgroups, true).memfd().get(), target_fd.get()});
            take_ready(shim);
        } catch (...) {
            shim.end();
            throw;
        }
        return run(std::move(shim), plan, native, before_start);
    }

    std::shared_ptr<Task> adopt(const std::string &id, const std::string &exit_path) override {
        check_id(id);
        Shim shim;
        shim.id = id;
        shim.dir = directory(id);
        shim.cgroups = cgroup_dirs(layout_, settings_.cgroup_parent, id);
        if (ask_shim(shim)) {
            auto task = std::make_shared<TaskImpl>(std::move(shim), &layout_, group(id), exit_path);
            task->set_started();
            events_.add(task);
            return task;
        }
        auto recorded = read_exit(exit_path);
        if (!recorded) {
            remove_cgroup_dirs(shim.cgroups); // nobody supervises what may be left
            return nullptr;
        }
        auto task = std::make_shared<TaskImpl>(std::move(shim), &layout_, group(id), exit_path);
        task->events_ = &events_;
        task->set_started();
        task->shim_.forget();
        task->finish(*recorded);
        return task;
    }

    void sweep(const std::vector<std::string> &known) override {
        std::vector<std::string> spared = known;
        auto is_known = [&](const std::string &id) {
            return std::find(spared.begin(), spared.end(), id) != spared.end();
        };
        for (const auto &id : list_directory(settings_.run_dir + "/sandboxes")) {
            if (is_known(id)) continue;
            try {
                if (auto task = adopt(id, ""); task && !task->exit_status()) {
                    if (!id.starts_with("probe-") && is_exec_in(*task, known))
                        continue; // the event thread has it
                    try {
                        task->kill_all(SIGKILL);
                    } catch (const Error &) {
                    }
                    task->wait(10000);
                }
                remove_tree(directory(id));
            } catch (const Error &error) {
                // Its directory stays, and so the next start finds it again.
                log_warn("end sandbox {}: {}", id, error.message());
                spared.push_back(id);
            }
        }
        for (const auto &h : layout_.hierarchies)
            for (const auto &id : list_directory(h.mount_point + settings_.cgroup_parent)) {
                std::string dir = h.mount_point + settings_.cgroup_parent + "/" + id;
                struct stat status;
                if (!is_known(id) && stat(dir.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
                    remove_cgroup_dirs({dir});
            }
    }

    void update(Task &task, const SpecResources &resources) override {
        auto writes = compile_resources(layout_, group(task.id()), resources, false);
        // v1 wants memory <= memory+swap at every moment, so which one goes first depends on the
        // direction: what fails is tried again after the others.
        std::vector<CgroupWrite> again;
        for (const auto &write : writes)
            try {
                if (!write.required && !path_exists(write.path)) continue;
                write_kernel_file(write.path, write.value);
            } catch (const Error &) {
                again.push_back(write);
            }
        for (const auto &write : again)
            write_kernel_file(write.path, write.value);
    }

    std::string cgroup_version() const override { return layout_.version; }

  private:
    std::string directory(const std::string &id) const { return settings_.run_dir + "/sandboxes/" + id; }
    std::string group(const std::string &id) const { return settings_.cgroup_parent + "/" + id; }
    CompileContext context_of(const std::string &id, const std::vector<std::string> &cgroups) const {
        CompileContext context;
        context.layout = &layout_;
        context.cgroup_dirs = cgroups;
        context.id = id;
        context.group = group(id);
        return context;
    }
    bool is_exec_in(const Task &task, const std::vector<std::string> &known) const {
        if (!dynamic_cast<const TaskImpl &>(task).shim_.exec) return false;
        bool found = false;
        const std::string groups = read_file_if(fmt::format("/proc/{}/cgroup", task.pid()), found, 65536);
        return std::any_of(known.begin(), known.end(), [&](const std::string &id) {
            return groups.find(group(id) + "\n") != std::string::npos ||
                   groups.find(group(id) + "/") != std::string::npos;
        });
    }
    /// True: it runs, and `shim` is connected. False: there is no shim any more, or its process has ended.
    bool ask_shim(Shim &shim) const {
        const std::string doing = "reach the shim of " + shim.id;
        UniqueFd dir(open(shim.dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!dir) {
            if (errno == ENOENT || errno == ENOTDIR) return false;
            throw Error::from_errno(errno, doing);
        }
        for (int attempt = 0; attempt < 100; attempt++) {
            UniqueFd control(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
            if (!control) throw Error::from_errno(errno, doing);
            sockaddr_un address = control_address(dir.get());
            timeval limit{kStatusTimeoutMs / 1000, 0};
            // connect() waits while the backlog of a stopped shim is full.
            setsockopt(control.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            if (connect(control.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
                if (errno == ENOENT || errno == ECONNREFUSED) return false; // nobody listens: it has ended
                throw Error::from_errno(errno, doing);
            }
            Packet packet;
            try {
                send_packet(control.get(), plan::kStatus, 0, 0, "", {});
                if (!receive_packet(control.get(), packet, kStatusTimeoutMs)) return false;
            } catch (const Error &error) {
                if (error.errno_value() == EPIPE || error.errno_value() == ECONNRESET) return false;
                throw Error(error.error_class(), doing + ": " + error.message(), error.hint());
            }
            if (packet.message.command == plan::kStarted && !packet.fds.empty()) {
                shim.control = std::move(control);
                take_fds(shim, packet);
                return true;
            }
            if (packet.message.command == plan::kFailed && packet.message.a == 0) return false;
            // The engine was killed between "start" and "started".
            poll(nullptr, 0, 20);
        }
        throw Error(ErrorClass::kDeadline, doing + ": it is still starting");
    }
    static void check_id(const std::string &id) {
        bool good = !id.empty() && id.size() <= 128 && id[0] != '.' &&
                    std::all_of(id.begin(), id.end(), [](unsigned char c) {
                        return isalnum(c) || c == '_' || c == '-' || c == '.';
                    });
        if (!good)
            throw Error(ErrorClass::kInvalidArgument,
                        fmt::format("use sandbox id \"{}\": letters, digits, _.- only", id));
    }

    Shim spawn(const std::string &id) {
        check_id(id);
        Shim shim;
        shim.id = id;
        shim.dir = directory(id);
        if (mkdir(shim.dir.c_str(), 0700) != 0) throw Error::from_errno(errno, "make sandbox " + shim.dir);
        try {
            if (mkdir((shim.dir + "/rootfs").c_str(), 0700) != 0)
                throw Error::from_errno(errno, "make " + shim.dir + "/rootfs");
            UniqueFd dir = open_file(shim.dir, O_PATH | O_DIRECTORY);
            UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            sockaddr_un address = control_address(dir.get());
            if (!listener ||
                bind(listener.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
                chmod((shim.dir + "/ctl.sock").c_str(), 0600) != 0 || listen(listener.get(), 8) != 0)
                throw Error::from_errno(errno, "listen for sandbox " + id);
            int pair[2];
            if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
                throw Error::from_errno(errno, "make socket pair");
            shim.control.reset(pair[0]);
            UniqueFd theirs(pair[1]);
            execute(id, theirs.get(), listener.get(), shim);
        } catch (...) {
            shim.forget();
            throw;
        }
        return shim;
    }

    void execute(const std::string &id, int control, int listener, Shim &shim) {
        // Away from 3 and 4 first, so that the second dup2 cannot overwrite the first one's source.
        UniqueFd control_copy(fcntl(control, F_DUPFD_CLOEXEC, 10)),
            listener_copy(fcntl(listener, F_DUPFD_CLOEXEC, 10));
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        posix_spawn_file_actions_init(&actions);
        posix_spawnattr_init(&attributes);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
        posix_spawn_file_actions_adddup2(&actions, 0, 1);
        posix_spawn_file_actions_adddup2(&actions, 0, 2);
        posix_spawn_file_actions_adddup2(&actions, control_copy.get(), plan::kControlFd);
        posix_spawn_file_actions_adddup2(&actions, listener_copy.get(), plan::kListenFd);
        sigset_t none, all;
        sigemptyset(&none);
        sigfillset(&all);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setsigdefault(&attributes, &all);
        posix_spawnattr_setflags(&attributes,
                                 POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
        std::string path = fmt::format("/proc/{}/fd/{}", getpid(), image_.get());
        std::string name = "gantry-shim", id_copy = id;
        std::string env = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        char *argv[] = {name.data(), id_copy.data(), nullptr}, *environment[] = {env.data(), nullptr};
        int error = posix_spawn(&shim.shim_pid, path.c_str(), &actions, &attributes, argv, environment);
        posix_spawn_file_actions_destroy(&actions);
        posix_spawnattr_destroy(&attributes);
        if (error) throw Error::from_errno(error, "execute " + settings_.shim_path);
        shim.child_of_ours = true;
    }

    static void take_fds(Shim &shim, Packet &packet) {
        shim.pid = pid_t(packet.message.a);
        shim.exec = packet.message.b & 1;
        if (packet.message.time_ns > 0) shim.shim_pid = pid_t(packet.message.time_ns);
        if (!packet.fds.empty()) shim.pidfd = std::move(packet.fds[0]);
        if (packet.fds.size() > 1) shim.netns = std::move(packet.fds[1]);
    }
    [[noreturn]] static void throw_failure(const Packet &packet) {
        auto error_class = packet.message.a >= 1 && packet.message.a <= 12 ? ErrorClass(packet.message.a)
                                                                           : ErrorClass::kInternal;
        throw Error(error_class, packet.text, {}, int(packet.message.b));
    }
    static void take_ready(Shim &shim) {
        Packet packet;
        if (!receive_packet(shim.control.get(), packet, kStartTimeoutMs))
            throw Error(ErrorClass::kInternal, "prepare sandbox: the shim died");
        if (packet.message.command == plan::kFailed) throw_failure(packet);
        take_fds(shim, packet);
    }

    std::shared_ptr<Task> run(Shim shim, const PlanWriter &plan, const StartExtras &extras,
                              const std::function<void(Task &)> &before_start) {
        std::string id = shim.id;
        auto task = std::make_shared<TaskImpl>(std::move(shim), &layout_, group(id), extras.exit_path);
        task->events_ = &events_;
        try {
            if (before_start) before_start(*task);
            send_packet(task->shim_.control.get(), plan::kStart, 0, 0, "", {plan.memfd().get()});
            Packet packet;
            if (!receive_packet(task->shim_.control.get(), packet, kStartTimeoutMs))
                throw Error(ErrorClass::kInternal, "start container: the shim died");
            if (packet.message.command != plan::kStarted) throw_failure(packet);
            take_fds(task->shim_, packet);
        } catch (...) {
            task->shim_.end();
            throw;
        }
        task->set_started();
        events_.add(task);
        return task;
    }

    void write_bundle(RuntimeSpec &spec, const StartExtras &extras, const Shim &shim) {
        if (extras.bundle.empty())
            throw Error(ErrorClass::kInvalidArgument, "start container: no bundle directory");
        make_directories(extras.bundle + "/rootfs", 0700);
        // The shim keeps the prepared network namespace open; its waiting child is gone by then.
        if (shim.netns)
            for (auto &ns : spec.namespaces)
                if (ns.type == "network" && ns.path.empty()) {
                    struct stat status;
                    fstat(shim.netns.get(), &status);
                    for (const auto &name : list_directory(fmt::format("/proc/{}/fd", shim.shim_pid))) {
                        struct stat other;
                        std::string path = fmt::format("/proc/{}/fd/{}", shim.shim_pid, name);
                        if (stat(path.c_str(), &other) == 0 && other.st_ino == status.st_ino &&
                            other.st_dev == status.st_dev)
                            ns.path = path;
                    }
                }
        if (extras.init) {
            spec.mounts.push_back({plan::kInitPath, "bind", settings_.shim_path, {"bind", "ro"}});
            spec.process.args.insert(spec.process.args.begin(), {plan::kInitPath, "--"});
        }
        // What the engine itself must not do, it cannot give away; runc fails where the shim just leaves it
        // out.
        const auto &names = capability_names();
        for (auto *list : {&spec.process.capabilities, &spec.process.inheritable_capabilities,
                           &spec.process.ambient_capabilities})
            std::erase_if(*list, [&](const std::string &name) {
                const auto number = std::find(names.begin(), names.end(), name) - names.begin();
                return prctl(PR_CAPBSET_READ, static_cast<unsigned long>(number), 0, 0, 0) != 1;
            });
        spec.root_path = "rootfs";
        spec.cgroups_path = group(shim.id);
        write_file_atomically(extras.bundle + "/config.json", to_json(spec), 0600, false);
    }

    RuntimeSettings settings_;
    CgroupLayout layout_;
    UniqueFd image_;
    EventThread events_;
};

} // namespace

std::unique_ptr<Runtime> Runtime::make(const RuntimeSettings &settings) {
    return std::make_unique<RuntimeImpl>(settings);
}

} // namespace gantry

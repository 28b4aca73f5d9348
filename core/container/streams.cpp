// Attach, logs and exec: whatever moves bytes between a client and a process. The engine never copies
// live output itself; connections are handed to the shim.
#include "core/container/containers_impl.h"

#include "core/base/ids.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {

namespace {

constexpr size_t kAccountLimit = 4u << 20;
constexpr int64_t kDefaultHealthNs = 30ll * 1000000000;

[[noreturn]] void conflict(const std::string &message) {
    throw Error(ErrorClass::kFailedPrecondition, message);
}

/// The client may have gone away, and the descriptor may be non-blocking: neither is an error here.
bool send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t done = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (done < 0 && errno == ENOTSOCK) done = ::write(fd, bytes.data(), bytes.size());
        if (done < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return false;
            pollfd p{fd, POLLOUT, 0};
            if (::poll(&p, 1, 10000) <= 0) return false;
            continue;
        }
        bytes.remove_prefix(static_cast<size_t>(done));
    }
    return true;
}

std::string joined(const std::vector<std::string> &words) {
    std::string out;
    for (const auto &word : words)
        out += (out.empty() ? "" : " ") + word;
    return out;
}

std::string exec_error_text(const std::string &cause) {
    return "OCI runtime exec failed: exec failed: unable to start container process: " + cause + ": unknown";
}

UserIds user_in_running(pid_t pid, const std::string &user, const std::vector<std::string> &groups) {
    const std::string path = "/proc/" + std::to_string(pid) + "/root";
    UniqueFd root(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root) throw Error::from_errno(errno, "open root of process " + std::to_string(pid));
    return resolve_user(user, groups, read_in_root(root.get(), "/etc/passwd", kAccountLimit),
                        read_in_root(root.get(), "/etc/group", kAccountLimit));
}

} // namespace

std::string frame_header(int stream, size_t size) {
    std::string head(8, '\0');
    head[0] = static_cast<char>(stream);
    for (int i = 0; i < 4; ++i)
        head[static_cast<size_t>(4 + i)] = static_cast<char>((size >> (24 - 8 * i)) & 0xff);
    return head;
}

std::string parse_detach_keys(const std::string &text) {
    std::string out;
    size_t from = 0;
    while (from < text.size()) {
        const size_t comma = text.find(',', from);
        const std::string key = text.substr(from, comma == text.npos ? comma : comma - from);
        from = comma == text.npos ? text.size() : comma + 1;
        if (key.size() == 1) {
            out += key;
            continue;
        }
        if (key.size() == 6 && key.starts_with("ctrl-")) {
            const char c = key[5];
            static const std::string_view kOthers = "@[\\]^_";
            if (c >= 'a' && c <= 'z') {
                out += static_cast<char>(c - 'a' + 1);
                continue;
            }
            if (kOthers.find(c) != kOthers.npos) {
                out += static_cast<char>(c & 0x1f);
                continue;
            }
        }
        throw Error(ErrorClass::kInvalidArgument, "Invalid detach keys (" + text + ") provided");
    }
    return out;
}

void Containers::attach(const std::string &name, UniqueFd connection, const AttachRequestOptions &options) {
    auto record = impl_->find(name);
    AttachOptions to;
    to.detach_keys = parse_detach_keys(options.detach_keys);
    bool tty;
    {
        std::lock_guard lock(record->mutex);
        if (record->state.paused) {
            conflict("Container " + record->id + " is paused, unpause the container before attach");
        }
        if (record->state.restarting) {
            conflict("Container " + record->id + " is restarting, wait until the container is running");
        }
        const auto &c = *record->config;
        tty = c.tty;
        to.stdin_ = options.stdin_ && c.open_stdin;
        to.stdout_ = options.stdout_;
        to.stderr_ = options.stderr_;
        to.multiplexed = !tty;
    }
    if (options.logs) {
        CancelSource never;
        LogQuery query;
        query.stdout_ = options.stdout_;
        query.stderr_ = options.stderr_;
        logs(name, query, never, [&](const LogRecord &line) {
            if (!tty && !send_all(connection.get(), frame_header(line.stream, line.text.size())))
                return false;
            return send_all(connection.get(), line.text);
        });
    }
    if (!options.stream) return;
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + name);
        task = record->state.running ? record->task : nullptr;
        if (!task) record->pending.push_back({std::move(connection), to});
    }
    if (task) task->attach(std::move(connection), to);
    impl_->publish(*record, "attach");
}

void Containers::logs(const std::string &name, const LogQuery &query, const CancelSource &cancel,
                      const std::function<bool(const LogRecord &)> &sink) {
    auto record = impl_->find(name);
    auto end = std::make_shared<UniqueFd>(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!*end) throw Error::from_errno(errno, "read logs of container " + name);
    auto still_going = [&] { return record->state.running || record->state.restarting; };
    auto ended = [&] {
        std::lock_guard lock(record->mutex);
        if (!still_going()) return true;
        // exits take the list; a restarted container needs the entry again
        std::erase_if(record->end_signals, [&](const auto &weak) {
            auto other = weak.lock();
            return !other || other == end;
        });
        record->end_signals.push_back(end);
        return false;
    };
    {
        std::lock_guard lock(record->mutex);
        if (record->config->log_driver == "none") {
            throw Error(ErrorClass::kUnsupported, "configured logging driver does not support reading");
        }
    }
    read_log(impl_->log_path(*record), query, cancel, end->get(), ended, sink);
}

std::string Containers::exec_create(const std::string &name, const ExecConfig &config) {
    auto record = impl_->find(name);
    if (config.cmd.empty()) throw Error(ErrorClass::kInvalidArgument, "No exec command specified");
    parse_detach_keys(config.detach_keys);
    auto exec = std::make_shared<ExecRecord>();
    exec->info.id = new_id();
    exec->info.container_id = record->id;
    exec->info.config = config;
    {
        std::lock_guard lock(record->mutex);
        if (record->state.paused) {
            conflict("Container " + name + " is paused, unpause the container before exec");
        }
        if (record->state.restarting) {
            conflict("Container " + name + " is restarting, wait until the container is running");
        }
        if (!record->state.running || !record->task) conflict("Container " + record->id + " is not running");
        // Ended ones stay inspectable for a while only.
        if (record->execs.size() >= 1000) {
            std::erase_if(record->execs, [&](const auto &item) {
                std::lock_guard inner(item.second->mutex);
                return item.second->info.started && !item.second->info.running;
            });
        }
        record->execs[exec->info.id] = exec;
    }
    {
        std::lock_guard lock(impl_->mutex);
        if (impl_->execs.size() >= 10000) {
            std::erase_if(impl_->execs, [&](const auto &item) {
                std::lock_guard inner(item.second.second->mutex);
                return item.second.second->info.started && !item.second.second->info.running;
            });
        }
        impl_->execs[exec->info.id] = {record, exec};
    }
    impl_->publish(*record, "exec_create: " + joined(config.cmd), {{"execID", exec->info.id}});
    return exec->info.id;
}

std::shared_ptr<Task> Containers::Impl::run_exec(const RecordPtr &record, ExecRecord &exec,
                                                 const std::function<void(Task &)> &before_start) {
    std::shared_ptr<Task> container;
    std::shared_ptr<const RuntimeSpec> base;
    std::shared_ptr<const ContainerConfig> config;
    {
        std::lock_guard lock(record->mutex);
        if (!record->state.running || !record->task) conflict("Container " + record->id + " is not running");
        if (!record->spec) {
            throw Error(ErrorClass::kInternal,
                        "exec in container " + record->id + ": its document is unknown");
        }
        container = record->task;
        base = record->spec;
        config = record->config;
    }
    const ExecConfig &wanted = exec.info.config;
    RuntimeSpec spec = *base;
    const std::string user = wanted.user.empty() ? config->user : wanted.user;
    apply_exec(spec, *config, wanted, user_in_running(container->pid(), user, config->group_add));
    StartExtras extras;
    extras.open_stdin = wanted.attach_stdin;
    extras.stdin_once = true;
    extras.exit_path = exec.exit_path = directory(record->id) + "/exec-" + exec.info.id;
    extras.external_runtime = runtime_path(config->runtime);
    if (!extras.external_runtime.empty()) extras.bundle = directory(record->id) + "/bundle";
    return parts.runtime->exec(*container, exec.info.id, spec, extras, before_start);
}

void Containers::exec_start(const std::string &exec_id, UniqueFd connection, bool detach, uint16_t height,
                            uint16_t width) {
    RecordPtr record;
    std::shared_ptr<ExecRecord> exec;
    {
        std::lock_guard lock(impl_->mutex);
        auto it = impl_->execs.find(exec_id);
        if (it == impl_->execs.end()) throw Error(ErrorClass::kNotFound, "No such exec instance: " + exec_id);
        record = it->second.first;
        exec = it->second.second;
    }
    {
        std::lock_guard lock(record->mutex);
        if (!record->state.running || !record->task) conflict("Container " + record->id + " is not running");
        if (record->state.paused) {
            conflict("Container " + record->id + " is paused, unpause the container before exec");
        }
    }
    AttachOptions to;
    {
        std::lock_guard lock(exec->mutex);
        if (exec->info.started || exec->starting) {
            if (exec->info.running) conflict("Error: Exec command " + exec_id + " is already running");
            conflict("Error: Exec command " + exec_id + " has already run");
        }
        exec->starting = true;
        auto &c = exec->info.config;
        if (height) c.console_height = height;
        if (width) c.console_width = width;
        to.stdin_ = c.attach_stdin;
        to.stdout_ = c.attach_stdout;
        to.stderr_ = c.attach_stderr;
        to.multiplexed = !c.tty;
        to.detach_keys = parse_detach_keys(c.detach_keys);
    }
    const std::string cmd = joined(exec->info.config.cmd);
    impl_->publish(*record, "exec_start: " + cmd, {{"execID", exec_id}});
    UniqueFd kept; // for the error text, as the shim owns the connection afterwards
    if (connection) kept = connection.dup();
    try {
        auto task = impl_->run_exec(record, *exec, [&](Task &t) {
            if (connection) t.attach(std::move(connection), to);
        });
        {
            std::lock_guard lock(exec->mutex);
            exec->task = task;
            exec->starting = false;
            exec->info.started = exec->info.running = true;
            exec->info.pid = static_cast<int>(task->pid());
        }
        task->on_exit([gate = impl_->gate, record, exec](const ExitStatus &status) {
            {
                std::lock_guard lock(exec->mutex);
                exec->info.running = false;
                exec->info.exit_code = status.code;
                exec->info.pid = 0;
                exec->task.reset();
            }
            if (!exec->exit_path.empty()) ::unlink(exec->exit_path.c_str());
            std::shared_lock lock(gate->mutex);
            if (!gate->impl) return;
            gate->impl->exits->post([impl = gate->impl, record, exec, code = status.code] {
                impl->publish(*record, "exec_die",
                              {{"execID", exec->info.id}, {"exitCode", std::to_string(code)}});
            });
        });
    } catch (const Error &error) {
        int code = exit_code_of_error(error.message());
        if (code == 128) code = 126;
        {
            std::lock_guard lock(exec->mutex);
            exec->starting = false;
            exec->info.started = true;
            exec->info.running = false;
            exec->info.exit_code = code;
        }
        const std::string text = exec_error_text(error.message());
        log_info("exec in container {}: {}", record->id, error.message());
        if (detach || !kept) throw Error(ErrorClass::kInvalidArgument, text, error.hint());
        const std::string line = text + "\r\n";
        if (to.multiplexed) send_all(kept.get(), frame_header(1, line.size()));
        send_all(kept.get(), line);
        ::shutdown(kept.get(), SHUT_RDWR);
    }
}

ExecInfo Containers::exec_inspect(const std::string &exec_id) {
    std::shared_ptr<ExecRecord> exec;
    {
        std::lock_guard lock(impl_->mutex);
        auto it = impl_->execs.find(exec_id);
        if (it == impl_->execs.end()) throw Error(ErrorClass::kNotFound, "No such exec instance: " + exec_id);
        exec = it->second.second;
    }
    std::lock_guard lock(exec->mutex);
    return exec->info;
}

void Containers::exec_resize(const std::string &exec_id, uint16_t height, uint16_t width) {
    std::shared_ptr<ExecRecord> exec;
    {
        std::lock_guard lock(impl_->mutex);
        auto it = impl_->execs.find(exec_id);
        if (it == impl_->execs.end()) throw Error(ErrorClass::kNotFound, "No such exec instance: " + exec_id);
        exec = it->second.second;
    }
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(exec->mutex);
        task = exec->task;
    }
    if (!task) throw Error(ErrorClass::kFailedPrecondition, "exec " + exec_id + " is not running");
    task->resize(height, width);
}

void Containers::Impl::schedule_health(const RecordPtr &record, uint64_t run) {
    int64_t interval;
    {
        std::lock_guard lock(record->mutex);
        const auto &health = record->config->healthcheck;
        if (!health || health->test.empty() || health->test[0] == "NONE") return;
        if (record->run != run || !record->state.running) return;
        interval = health->interval_ns ? health->interval_ns : kDefaultHealthNs;
    }
    jobs->post_after(interval / 1000000, [this, record, run] { probe_health(record, run); });
}

void Containers::Impl::probe_health(const RecordPtr &record, uint64_t run) {
    auto exec = std::make_shared<ExecRecord>();
    HealthcheckConfig health;
    bool paused;
    {
        std::lock_guard lock(record->mutex);
        if (record->run != run || !record->state.running || !record->config->healthcheck) return;
        health = *record->config->healthcheck;
        paused = record->state.paused;
    }
    if (paused) {
        schedule_health(record, run);
        return;
    }
    exec->info.id = new_id();
    auto &config = exec->info.config;
    config.cmd.assign(health.test.begin() + 1, health.test.end());
    if (health.test[0] == "CMD-SHELL") config.cmd.insert(config.cmd.begin(), {"/bin/sh", "-c"});
    if (config.cmd.empty()) return;
    auto judge = [this, record, run, health](bool good) {
        std::string news;
        {
            std::lock_guard lock(record->mutex);
            if (record->run != run || !record->state.running) return;
            auto &state = record->state;
            const std::string before = state.health;
            const int retries = health.retries ? health.retries : 3;
            if (good) {
                record->health_failures = 0;
                state.health = "healthy";
            } else if (!(before == "starting" && wall_ns() - state.started_ns < health.start_period_ns)) {
                if (++record->health_failures >= retries) state.health = "unhealthy";
            }
            if (state.health != before) news = state.health;
        }
        if (!news.empty()) publish(*record, "health_status: " + news);
        schedule_health(record, run);
    };
    try {
        auto task = run_exec(record, *exec, [](Task &) {});
        const int64_t timeout = health.timeout_ns ? health.timeout_ns : kDefaultHealthNs;
        // Two ends can come: the exit, or the time-out; the first one judges.
        auto decided = std::make_shared<std::atomic<bool>>(false);
        jobs->post_after(timeout / 1000000, [task, decided, judge] {
            if (decided->exchange(true)) return;
            try {
                task->kill(9);
            } catch (const Error &) {
                // gone already: the exit is on its way and counts for nothing now
            }
            judge(false);
        });
        task->on_exit([gate = gate, exec, decided, judge](const ExitStatus &status) {
            ::unlink(exec->exit_path.c_str());
            std::shared_lock lock(gate->mutex);
            if (!gate->impl || decided->exchange(true)) return;
            gate->impl->jobs->post([judge, good = status.code == 0] { judge(good); });
        });
    } catch (const Error &error) {
        log_debug("health check of container {}: {}", record->id, error.message());
        judge(false);
    }
}

} // namespace gantry

// exec: further processes in a running container. Each has a shim of its own, which talks to the client
// directly; so a client can know of an end before the engine does, and exec_inspect() waits for that.
#include "core/container/containers_impl.h"

#include "core/base/ids.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace gantry {

namespace {

constexpr size_t kAccountLimit = 4u << 20;
constexpr auto kSettleTime = std::chrono::seconds(2);

[[noreturn]] void conflict(const std::string &message) {
    throw Error(ErrorClass::kFailedPrecondition, message);
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

std::string Containers::exec_create(const std::string &name, const ExecConfig &config) {
    auto record = impl_->find(name);
    if (config.cmd.empty()) throw Error(ErrorClass::kInvalidArgument, "No exec command specified");
    parse_detach_keys(config.detach_keys, false);
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
        need_task(*record);
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

std::shared_ptr<ExecRecord> Containers::Impl::find_exec(const std::string &exec_id, RecordPtr *record) {
    std::lock_guard lock(mutex);
    auto it = execs.find(exec_id);
    if (it == execs.end()) throw Error(ErrorClass::kNotFound, "No such exec instance: " + exec_id);
    if (record) *record = it->second.first;
    return it->second.second;
}

std::shared_ptr<Task> Containers::Impl::run_exec(const RecordPtr &record, ExecRecord &exec,
                                                 const std::function<void(Task &)> &before_start,
                                                 const std::function<void(StartExtras &)> &adjust) {
    std::shared_ptr<Task> container;
    std::shared_ptr<const RuntimeSpec> base;
    std::shared_ptr<const ContainerConfig> config;
    {
        std::lock_guard lock(record->mutex);
        container = need_task(*record);
        if (!record->spec) {
            throw Error(ErrorClass::kInternal,
                        "exec in container " + record->id + ": its document is unknown");
        }
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
    if (adjust) adjust(extras);
    return parts.runtime->exec(*container, exec.info.id, spec, extras, before_start);
}

void Containers::exec_start(const std::string &exec_id, UniqueFd connection, bool detach, uint16_t height,
                            uint16_t width) {
    RecordPtr record;
    auto exec = impl_->find_exec(exec_id, &record);
    {
        std::lock_guard lock(record->mutex);
        need_task(*record);
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
        to.detach_keys = parse_detach_keys(c.detach_keys, c.tty);
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
        exec->changed.notify_all();
        task->on_exit([gate = impl_->gate, record, exec](const ExitStatus &status) {
            {
                std::lock_guard lock(exec->mutex);
                exec->info.running = false;
                exec->info.exit_code = status.code;
                exec->info.pid = 0;
                exec->task.reset();
            }
            exec->changed.notify_all();
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
        exec->changed.notify_all();
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
    auto exec = impl_->find_exec(exec_id);
    std::unique_lock lock(exec->mutex);
    // Bounded, as an exit that nobody reports must not hang a client.
    exec->changed.wait_for(lock, kSettleTime, [&] {
        const bool unheard = exec->info.running && exec->task && exec->task->process_ended();
        return exec->info.exit_code || (!exec->starting && !unheard);
    });
    return exec->info;
}

void Containers::exec_resize(const std::string &exec_id, uint16_t height, uint16_t width) {
    auto exec = impl_->find_exec(exec_id);
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(exec->mutex);
        task = exec->task;
    }
    if (!task) throw Error(ErrorClass::kFailedPrecondition, "exec " + exec_id + " is not running");
    task->resize(height, width);
}

} // namespace gantry

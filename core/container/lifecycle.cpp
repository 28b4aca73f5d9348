// What happens when a process ends: recording, clean-up, restart by policy, removal.
#include "core/container/containers_impl.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <unistd.h>

namespace gantry {

namespace {
constexpr int64_t kStableRunNs = 10ll * 1000000000; // a run this long starts the back-off anew
constexpr int kKillTimeout = 10;
} // namespace

int exit_code_of_error(const std::string &text) {
    for (const char *part :
         {"executable file not found", "no such file or directory", "system cannot find the file"}) {
        if (text.find(part) != text.npos) return 127;
    }
    for (const char *part : {"permission denied", "is a directory", "exec format error"}) {
        if (text.find(part) != text.npos) return 126;
    }
    return 128;
}

void Containers::Impl::watch_exit(const RecordPtr &record, uint64_t run, const std::shared_ptr<Task> &task) {
    task->on_exit([gate = gate, record, run](const ExitStatus &status) {
        std::shared_lock lock(gate->mutex);
        if (!gate->impl) return; // the next engine reads it from the shim's record
        gate->impl->exits->post(
            [impl = gate->impl, record, run, status] { impl->handle_exit(record, run, status); });
    });
}

void Containers::Impl::fire(const RecordPtr &record, std::initializer_list<WaitCondition> conditions,
                            const WaitResult &result) {
    std::vector<std::shared_ptr<Waiter>> due;
    {
        std::lock_guard lock(record->mutex);
        record->waiters.remove_if([&](const auto &waiter) {
            if (std::find(conditions.begin(), conditions.end(), waiter->condition) == conditions.end())
                return false;
            due.push_back(waiter);
            return true;
        });
    }
    for (const auto &waiter : due)
        waiter->fire(result);
}

void Containers::Impl::handle_exit(const RecordPtr &record, uint64_t run, const ExitStatus &status) {
    bool again = false, auto_remove = false, ports = false, kill_rest = false, shm = false;
    int64_t delay = 0;
    WaitResult result;
    std::shared_ptr<Task> task;
    std::list<std::weak_ptr<UniqueFd>> ends;
    {
        std::lock_guard lock(record->mutex);
        if (record->run != run || !record->state.running) return;
        const auto &c = *record->config;
        auto &state = record->state;
        auto_remove = c.auto_remove;
        const int code = status.code;
        again = !record->manual_stop && !auto_remove &&
                (c.restart_policy == "always" || c.restart_policy == "unless-stopped" ||
                 (c.restart_policy == "on-failure" && code != 0 &&
                  (c.restart_max == 0 || state.restart_count < c.restart_max)));
        state.finished_ns = status.finished_ns ? status.finished_ns : wall_ns();
        if (again) {
            if (state.finished_ns - state.started_ns >= kStableRunNs) record->failures = 0;
            delay = restart_delay_ms(record->failures++);
        }
        state.running = state.paused = false;
        state.restarting = again;
        state.status = again ? "restarting" : "exited";
        state.exit_code = code;
        state.oom_killed = status.oom_killed;
        state.error = status.error;
        state.pid = 0;
        if (!state.health.empty()) state.health = "unhealthy"; // as dockerd has it; the log stays
        record->unreachable.clear();
        record->finishing = true;
        task.swap(record->task);
        record->spec.reset();
        for (const auto &endpoint : record->endpoints)
            ports = ports || !endpoint.ports.empty();
        record->endpoints.clear();
        kill_rest = !c.pid_mode.empty();
        shm = c.ipc_mode == "shareable";
        result = {code, status.error};
        ends.swap(record->end_signals);
    }
    auto guarded = [&](const char *what, auto &&work) {
        try {
            work();
        } catch (const std::exception &error) {
            log_error("{} of container {}: {}", what, record->id, error.what());
        }
    };
    // Without a pid namespace of its own the container's other processes outlive the first.
    if (kill_rest && task)
        guarded("end processes", [&] {
            try {
                task->kill_all(9);
            } catch (const Error &error) {
                if (error.error_class() != ErrorClass::kNotFound) throw; // nobody is left
            }
        });
    if (shm) unmount_shm(record->id);
    guarded("record exit", [&] { save_state(*record); });
    if (status.oom_killed) publish(*record, "oom");
    publish(*record, "die", {{"exitCode", std::to_string(result.status)}});
    // Whoever waits may use the same host ports next, so they are freed first; without any the answer
    // need not wait for the clean-up.
    if (ports) guarded("detach network", [&] { parts.networks->detach_all(record->id); });
    if (again) {
        fire(record, {WaitCondition::kNextExit}, result);
    } else {
        fire(record, {WaitCondition::kNextExit, WaitCondition::kNotRunning}, result);
    }
    for (const auto &weak : ends) {
        if (auto end = weak.lock()) {
            const uint64_t one = 1;
            if (::write(end->get(), &one, sizeof one) < 0) log_debug("wake log reader: queue is full");
        }
    }
    if (!ports) guarded("detach network", [&] { parts.networks->detach_all(record->id); });
    {
        std::lock_guard lock(record->mutex);
        record->finishing = false;
    }
    record->changed.notify_all();
    if (again) schedule_restart(record, run, delay);
    if (auto_remove) {
        jobs->post([this, record, run] {
            std::lock_guard operation(record->operation);
            {
                std::lock_guard lock(record->mutex);
                if (record->removed || record->run != run || record->state.running) return;
            }
            remove_locked(record, true);
        });
    }
}

void Containers::Impl::schedule_restart(const RecordPtr &record, uint64_t run, int64_t delay_ms) {
    jobs->post_after(delay_ms, [this, record, run] {
        std::lock_guard operation(record->operation);
        {
            std::lock_guard lock(record->mutex);
            if (record->removed || record->run != run || !record->state.restarting || record->manual_stop)
                return;
            ++record->state.restart_count;
        }
        try {
            start_locked(record);
        } catch (const std::exception &error) {
            log_warn("restart container {}: {}", record->id, error.what());
        }
    });
}

void Containers::Impl::fail_start(const RecordPtr &record, const std::string &error, int exit_code) {
    bool auto_remove = false, again = false;
    int64_t delay = 0;
    uint64_t run = 0;
    std::list<PendingAttach> pending;
    {
        std::lock_guard lock(record->mutex);
        auto &state = record->state;
        // A restart by policy that fails is tried again like an exit.
        again = state.restarting && !record->manual_stop &&
                (record->config->restart_max == 0 || state.restart_count < record->config->restart_max);
        if (again) delay = restart_delay_ms(record->failures++);
        state.restarting = again;
        if (!again && state.status != "created") state.status = "exited";
        state.running = state.paused = false;
        state.error = error;
        state.exit_code = exit_code;
        if (state.started_ns) state.finished_ns = wall_ns();
        auto_remove = record->config->auto_remove;
        run = record->run;
        pending.swap(record->pending); // closes them
    }
    pending.clear();
    try {
        save_state(*record);
    } catch (const std::exception &second) {
        log_error("record failed start of container {}: {}", record->id, second.what());
    }
    if (again) {
        schedule_restart(record, run, delay);
        return;
    }
    fire(record, {WaitCondition::kNextExit, WaitCondition::kNotRunning}, {exit_code, error});
    if (auto_remove) {
        try {
            remove_locked(record, true);
        } catch (const std::exception &second) {
            log_error("remove container {}: {}", record->id, second.what());
        }
    }
}

bool Containers::Impl::end_locked(const RecordPtr &record, int signal, int timeout_s) {
    std::shared_ptr<Task> task;
    bool paused = false, was_restarting = false;
    auto ended = [&] { return (!record->state.running && !record->finishing) || record->removed; };
    {
        std::unique_lock lock(record->mutex);
        if (record->state.running) need_task(*record);
        record->manual_stop = true;
        if (!record->state.running) {
            was_restarting = record->state.restarting;
            if (was_restarting) {
                record->state.restarting = false;
                record->state.status = "exited";
            }
            record->changed.wait(lock, ended);
            if (!was_restarting) return false;
        } else {
            task = record->task;
            paused = std::exchange(record->state.paused, false);
            if (paused) record->state.status = "running";
        }
    }
    if (was_restarting) {
        save_state(*record);
        WaitResult result;
        {
            std::lock_guard lock(record->mutex);
            result = {record->state.exit_code, ""};
        }
        fire(record, {WaitCondition::kNotRunning}, result);
        return true;
    }
    auto send = [&](int number) {
        try {
            task->kill(number);
        } catch (const Error &error) {
            if (error.error_class() != ErrorClass::kNotFound) {
                log_warn("send signal {} to container {}: {}", number, record->id, error.message());
            }
            return;
        }
        publish(*record, "kill", {{"signal", std::to_string(number)}});
    };
    auto wait_end = [&](int seconds) {
        std::unique_lock lock(record->mutex);
        if (seconds < 0) {
            record->changed.wait(lock, ended);
            return true;
        }
        return record->changed.wait_for(lock, std::chrono::seconds(seconds), ended);
    };
    send(signal);
    if (paused) task->pause(false); // a frozen process takes signals only after it is thawed
    if (signal != 9 && wait_end(timeout_s)) return true;
    if (signal != 9) send(9);
    if (wait_end(kKillTimeout)) return true;
    try {
        task->kill_all(9);
    } catch (const Error &error) {
        log_warn("kill processes of container {}: {}", record->id, error.message());
    }
    if (wait_end(kKillTimeout)) return true;
    throw Error(ErrorClass::kDeadline, "Could not kill container " + record->id +
                                           ": tried to kill container, but did not receive an exit event");
}

void Containers::Impl::remove_locked(const RecordPtr &record, bool volumes) {
    std::vector<std::string> anonymous;
    std::string name;
    WaitResult result;
    std::list<PendingAttach> pending;
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) return;
        record->state.status = "removing";
        name = record->name;
        result.status = record->state.exit_code;
        result.error = record->state.error;
        for (const auto &point : record->mounts) {
            if (volumes && point.type == "volume") anonymous.push_back(point.name);
        }
        pending.swap(record->pending);
    }
    pending.clear();
    parts.networks->detach_all(record->id);
    failpoint("container.detached");
    // The record goes first, in one transaction: from here on a killed engine finds a layer and a
    // directory that no record knows, and recovery removes those.
    parts.db->transact(
        [&](Db &d) { d.prepare("DELETE FROM container WHERE id = ?1").bind(1, record->id).run(); });
    failpoint("container.forgotten");
    {
        std::lock_guard lock(record->mutex);
        record->removed = true;
    }
    auto guarded = [&](const char *what, auto &&work) {
        try {
            work();
        } catch (const std::exception &error) {
            log_warn("remove {} of container {}: {}", what, record->id, error.what());
        }
    };
    if (!record->layer.empty()) guarded("layer", [&] { parts.layers->remove(record->layer); });
    guarded("files", [&] { remove_tree(directory(record->id)); });
    for (const auto &volume : anonymous) {
        guarded("volume", [&] {
            const Volume found = parts.volumes->get(volume);
            if (found.anonymous && found.users == 0) parts.volumes->remove(volume, false);
        });
    }
    {
        std::lock_guard lock(mutex);
        by_id.erase(record->id);
        by_name.erase(name);
        std::erase_if(execs, [&](const auto &item) { return item.second.first == record; });
    }
    record->changed.notify_all();
    publish(*record, "destroy");
    fire(record, {WaitCondition::kRemoved, WaitCondition::kNextExit, WaitCondition::kNotRunning}, result);
}

} // namespace gantry

// What a former engine left: containers that run are taken over, what ended meanwhile is recorded, half
// removals are finished, and restart policies hold. Nothing here may cost a running container its life:
// one whose shim cannot be asked right now stays listed as running, with the reason, and is tried again.
#include "core/container/containers_impl.h"

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <unistd.h>

namespace gantry {

namespace {

constexpr int64_t kFirstRetryMs = 500, kLastRetryMs = 30000;
constexpr int kUnseenExit = 255; // nobody saw it end: the machine went down

void guarded(const std::string &what, const std::function<void()> &work) {
    try {
        work();
    } catch (const std::exception &error) {
        log_error("{}: {}", what, error.what());
    }
}

bool wants_restart(const Record &record) {
    const auto &c = *record.config;
    const auto &state = record.state;
    if (state.started_ns == 0 || state.dead) return false;
    if (c.restart_policy == "always") return true;
    if (record.manual_stop) return false;
    return c.restart_policy == "unless-stopped" ||
           (c.restart_policy == "on-failure" && state.exit_code != 0 &&
            (c.restart_max == 0 || state.restart_count < c.restart_max));
}

} // namespace

/// The task is running: everything that start_locked() would have set up. Who sees the task sees the rest.
void Containers::Impl::take_over(const RecordPtr &record, const std::shared_ptr<Task> &task) {
    std::shared_ptr<RuntimeSpec> spec;
    guarded("rebuild document of container " + record->id, [&] {
        SpecInput input;
        input.id = record->id;
        input.config = record->config.get();
        input.mounts = record->mounts;
        input.cgroup_parent = parts.config->cgroup_parent;
        input.user = resolve_container_user(*record, *record->config, {});
        spec = std::make_shared<RuntimeSpec>(build_spec(input));
        spec->cgroups_path =
            spec->cgroups_path.substr(0, spec->cgroups_path.rfind('/') + 1) + record->sandbox_id;
    });
    auto endpoints = parts.networks->endpoints_of(record->id);
    uint64_t run;
    {
        std::lock_guard lock(record->mutex);
        record->unreachable.clear();
        record->state.error.clear();
        record->task = task;
        record->spec = spec;
        record->endpoints = std::move(endpoints);
        begin_health(*record);
        run = ++record->run;
    }
    watch_exit(record, run, task);
    // Frozen without a word in the record: a commit was at work when the former engine died.
    if (!record->state.paused) guarded("thaw container " + record->id, [&] { task->pause(false); });
    schedule_health(record, run);
}

void Containers::Impl::retry_adoption(const RecordPtr &record, int64_t delay_ms) {
    jobs->post_after(delay_ms, [this, record, delay_ms] {
        std::lock_guard operation(record->operation);
        std::string sandbox;
        uint64_t run;
        {
            std::lock_guard lock(record->mutex);
            if (record->removed || record->unreachable.empty()) return;
            sandbox = record->sandbox_id;
            run = record->run;
        }
        std::shared_ptr<Task> task;
        try {
            task = parts.runtime->adopt(sandbox, directory(record->id) + "/exit");
        } catch (const std::exception &error) {
            std::lock_guard lock(record->mutex);
            record->unreachable = record->state.error = error.what();
            retry_adoption(record, std::min(delay_ms * 2, kLastRetryMs));
            return;
        }
        const auto status = task ? task->exit_status() : std::nullopt;
        if (task && !status) {
            log_info("container {}: reached again", record->id);
            take_over(record, task);
            return;
        }
        {
            std::lock_guard lock(record->mutex);
            record->unreachable.clear();
            record->state.error.clear();
            record->task = task;
        }
        ExitStatus unseen;
        unseen.code = kUnseenExit;
        handle_exit(record, run, status ? *status : unseen);
    });
}

std::vector<std::string> Containers::live_owners() {
    impl_->load();
    std::vector<std::string> owners;
    for (const auto &record : impl_->all()) {
        if (!record->state.running) continue;
        try {
            if (!record->task && record->unreachable.empty())
                record->task =
                    impl_->parts.runtime->adopt(record->sandbox_id, impl_->directory(record->id) + "/exit");
        } catch (const std::exception &error) {
            log_error("container {} cannot be reached, trying again: {}", record->id, error.what());
            record->unreachable = record->state.error = error.what();
        }
        if (!record->unreachable.empty() || (record->task && !record->task->exit_status()))
            owners.push_back(record->id);
    }
    return owners;
}

void Containers::recover() {
    live_owners(); // adopts what was not adopted yet
    auto &impl = *impl_;
    std::vector<std::string> sandboxes;
    std::vector<RecordPtr> restart;
    for (const auto &record : impl.all()) {
        std::lock_guard operation(record->operation);
        if (record->state.status == "removing") {
            guarded("finish removal of container " + record->id,
                    [&] { impl.remove_locked(record, record->config->auto_remove); });
            continue;
        }
        for (const auto &name : list_directory(impl.directory(record->id))) {
            // Exit records and output of execs whose client has nobody to ask any more.
            if (name.starts_with("exec-") || name.starts_with("probe-"))
                ::unlink((impl.directory(record->id) + "/" + name).c_str());
        }
        if (!record->unreachable.empty()) {
            sandboxes.push_back(record->sandbox_id);
            ++record->run;
            impl.retry_adoption(record, kFirstRetryMs);
            continue;
        }
        if (record->state.running && record->task && !record->task->exit_status()) {
            sandboxes.push_back(record->sandbox_id);
            guarded("take over container " + record->id, [&] { impl.take_over(record, record->task); });
            continue;
        }
        if (record->state.running) {
            auto &state = record->state;
            std::optional<ExitStatus> status;
            if (record->task) status = record->task->exit_status();
            state.running = state.paused = false;
            state.status = "exited";
            state.exit_code = status ? status->code : kUnseenExit;
            state.oom_killed = status && status->oom_killed;
            state.finished_ns = status && status->finished_ns ? status->finished_ns : wall_ns();
            if (status) state.error = status->error;
            record->task.reset();
            guarded("record exit of container " + record->id, [&] { impl.save_state(*record); });
            impl.publish(*record, "die", {{"exitCode", std::to_string(state.exit_code)}});
        }
        if (record->state.status == "restarting") record->state.status = "exited";
        if (record->config->auto_remove) {
            guarded("remove container " + record->id, [&] { impl.remove_locked(record, true); });
            continue;
        }
        if (wants_restart(*record)) restart.push_back(record);
    }
    guarded("sweep sandboxes", [&] { impl.parts.runtime->sweep(sandboxes); });
    // Writable layers and directories whose container was deleted when the engine was killed.
    std::vector<std::string> layers;
    impl.parts.db->transact([&](Db &d) {
        auto s = d.prepare("SELECT id FROM layer l WHERE chain_id IS NULL AND state = 'ready'"
                           " AND NOT EXISTS (SELECT 1 FROM container c WHERE c.layer = l.id)"
                           " AND NOT EXISTS (SELECT 1 FROM image i WHERE i.top_layer = l.id)"
                           " AND NOT EXISTS (SELECT 1 FROM layer k WHERE k.parent = l.id)");
        while (s.step())
            layers.push_back(s.text(0));
    });
    for (const auto &layer : layers)
        guarded("remove orphaned layer " + layer, [&] { impl.parts.layers->remove(layer); });
    for (const auto &name : list_directory(impl.parts.config->root + "/containers")) {
        bool known;
        {
            std::lock_guard lock(impl.mutex);
            known = impl.by_id.count(name) != 0;
        }
        if (!known) guarded("remove files of container " + name, [&] { remove_tree(impl.directory(name)); });
    }
    for (const auto &id : list_directory(impl.parts.config->run + "/shm")) {
        bool lives = false;
        {
            std::lock_guard lock(impl.mutex);
            if (auto found = impl.by_id.find(id); found != impl.by_id.end())
                lives = found->second->state.running;
        }
        if (!lives) impl.unmount_shm(id);
    }
    impl.pool->start();
    for (const auto &record : restart) {
        {
            std::lock_guard lock(record->mutex);
            record->manual_stop = false;
            record->state.restarting = true;
            record->state.status = "restarting";
        }
        impl.schedule_restart(record, record->run, 0);
    }
}

} // namespace gantry

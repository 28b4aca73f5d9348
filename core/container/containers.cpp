// The registry of containers: lookup, snapshots, records in the database, and the public calls.
#include "core/container/containers_impl.h"

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/events/events.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "core/volume/volumes.h"

#include <boost/json.hpp>
#include <gantry/error.hpp>

#include <algorithm>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

extern char **environ;

namespace gantry {

namespace json = boost::json;

namespace {

[[noreturn]] void conflict(const std::string &message) {
    throw Error(ErrorClass::kFailedPrecondition, message);
}

std::string string_of(const json::object &o, const char *key) {
    const auto *v = o.if_contains(key);
    return v && v->is_string() ? std::string(v->as_string()) : "";
}
int64_t number_of(const json::object &o, const char *key) {
    const auto *v = o.if_contains(key);
    return v && v->is_int64() ? v->as_int64() : 0;
}
bool flag_of(const json::object &o, const char *key) {
    const auto *v = o.if_contains(key);
    return v && v->is_bool() && v->as_bool();
}

struct Handle : Containers::WaitHandle {
    std::shared_ptr<Waiter> waiter;
    RecordPtr record;
    ~Handle() override {
        {
            // Taken with the waiter's lock: a call that is under way ends before the handle is gone.
            std::lock_guard lock(waiter->mutex);
            waiter->done = nullptr;
        }
        std::lock_guard lock(record->mutex);
        record->waiters.remove(waiter);
    }
};

} // namespace

std::shared_ptr<Task> need_task(const Record &record, const std::string &prefix) {
    if (!record.unreachable.empty()) {
        throw Error(ErrorClass::kUnavailable,
                    prefix + "Container " + record.id + " runs but cannot be reached: " + record.unreachable,
                    "the engine keeps trying; ending its gantry-shim process ends the container");
    }
    if (!record.state.running || !record.task)
        conflict(prefix + "Container " + record.id + " is not running");
    return record.task;
}

Containers::Impl::Impl(const Parts &p) : parts(p) {
    make_directories(parts.config->root + "/containers", 0710);
    gate->impl = this;
    jobs = std::make_unique<Jobs>(4);
    exits = std::make_unique<Jobs>(2);
    pool = std::make_unique<SandboxPool>(*parts.runtime, parts.networks, parts.config->warm_sandboxes);
    lone_pool = std::make_unique<SandboxPool>(*parts.runtime, nullptr,
                                              std::min<uint32_t>(1, parts.config->warm_sandboxes));
}

Containers::Impl::~Impl() {
    {
        std::unique_lock lock(gate->mutex);
        gate->impl = nullptr;
    }
    jobs->stop();
    exits->stop();
    pool->stop();
    lone_pool->stop();
}

std::set<std::string> Containers::ids() {
    std::set<std::string> out;
    std::lock_guard lock(impl_->mutex);
    for (const auto &[id, record] : impl_->by_id)
        out.insert(id);
    for (const auto &[name, id] : impl_->by_name)
        out.insert(id);
    return out;
}

std::optional<Containers::Owned> Containers::owned() {
    Owned out;
    for (const auto &record : impl_->all()) {
        const std::unique_lock operation(record->operation, std::try_to_lock);
        if (!operation) return std::nullopt;
        std::lock_guard lock(record->mutex);
        if (!record->state.running && !record->finishing && record->unreachable.empty()) continue;
        out.sandboxes.insert(record->sandbox_id);
        out.owners.insert(record->id);
    }
    for (const auto &pool : {impl_->pool.get(), impl_->lone_pool.get()})
        pool->add_ids(out.sandboxes);
    out.owners.insert(out.sandboxes.begin(), out.sandboxes.end());
    return out;
}

RecordPtr Containers::Impl::find(const std::string &given) {
    const std::string name = !given.empty() && given[0] == '/' ? given.substr(1) : given;
    std::lock_guard lock(mutex);
    const Error missing(ErrorClass::kNotFound, "No such container: " + given);
    if (name.empty()) throw missing;
    if (auto it = by_id.find(name); it != by_id.end()) return it->second;
    if (auto it = by_name.find(name); it != by_name.end()) {
        auto record = by_id.find(it->second);
        if (record == by_id.end()) throw missing; // still being created
        return record->second;
    }
    RecordPtr match;
    if (name.find_first_not_of("0123456789abcdef") != name.npos) throw missing;
    for (const auto &[id, record] : by_id) {
        if (!id.starts_with(name)) continue;
        if (match) {
            throw Error(ErrorClass::kInvalidArgument, "Multiple IDs found with provided prefix: " + name);
        }
        match = record;
    }
    if (!match) throw missing;
    return match;
}

std::vector<RecordPtr> Containers::Impl::all() {
    std::lock_guard lock(mutex);
    std::vector<RecordPtr> out;
    out.reserve(by_id.size());
    for (const auto &[id, record] : by_id)
        out.push_back(record);
    return out;
}

std::string Containers::Impl::directory(const std::string &id) const {
    return parts.config->root + "/containers/" + id;
}
std::string Containers::Impl::log_path(const Record &record) const {
    return directory(record.id) + "/" + record.id + "-json.log";
}

std::string Containers::Impl::state_text(const Record &r) const {
    json::object o;
    o["status"] = r.state.status;
    o["running"] = r.state.running;
    o["paused"] = r.state.paused;
    o["oom"] = r.state.oom_killed;
    o["exit"] = r.state.exit_code;
    o["error"] = r.state.error;
    o["started"] = r.state.started_ns;
    o["finished"] = r.state.finished_ns;
    o["restarts"] = r.state.restart_count;
    o["manual"] = r.manual_stop;
    o["sandbox"] = r.sandbox_id;
    o["image"] = r.image_id; // the column lets go of an image that is removed by force
    o["image_name"] = r.image_name;
    o["platform"] = r.platform;
    json::array mounts;
    for (const auto &m : r.mounts) {
        mounts.push_back({{"t", m.type},
                          {"n", m.name},
                          {"s", m.source},
                          {"d", m.destination},
                          {"v", m.driver},
                          {"m", m.mode},
                          {"p", m.propagation},
                          {"rw", m.rw}});
    }
    o["mounts"] = std::move(mounts);
    return json::serialize(o);
}

void Containers::Impl::save_state(Record &record) {
    // Text and write in one step under the database's lock: two changes cannot be stored in the wrong
    // order. record.mutex nests inside of it and is held for microseconds.
    parts.db->transact([&](Db &d) {
        std::string text;
        {
            std::lock_guard lock(record.mutex);
            if (record.removed) return;
            text = state_text(record);
        }
        d.prepare("UPDATE container SET state = ?1 WHERE id = ?2")
            .bind_all(std::string_view(text), std::string_view(record.id))
            .run();
    });
}

void Containers::Impl::load() {
    std::lock_guard lock(mutex);
    if (std::exchange(loaded, true)) return;
    parts.db->transact([&](Db &d) {
        auto s = d.prepare("SELECT id, name, image, layer, config, state, created, phase FROM container");
        while (s.step()) {
            auto record = std::make_shared<Record>();
            record->id = s.text(0);
            record->name = s.text(1);
            record->image_id = s.text(2);
            record->layer = s.text(3);
            record->created_ns = s.integer(6);
            try {
                record->config = std::make_shared<ContainerConfig>(decode_container_config(s.text(4)));
            } catch (const Error &error) {
                log_error("read configuration of container {}: {}", record->id, error.message());
                auto empty = std::make_shared<ContainerConfig>();
                record->config = empty;
                record->state.dead = true;
            }
            boost::system::error_code ec;
            const json::value value = json::parse(s.text(5), ec);
            if (!ec && value.is_object()) {
                const auto &o = value.as_object();
                auto &state = record->state;
                state.status = string_of(o, "status");
                state.running = flag_of(o, "running");
                state.paused = flag_of(o, "paused");
                state.oom_killed = flag_of(o, "oom");
                state.exit_code = static_cast<int>(number_of(o, "exit"));
                state.error = string_of(o, "error");
                state.started_ns = number_of(o, "started");
                state.finished_ns = number_of(o, "finished");
                state.restart_count = static_cast<int>(number_of(o, "restarts"));
                record->manual_stop = flag_of(o, "manual");
                record->sandbox_id = string_of(o, "sandbox");
                if (record->image_id.empty()) record->image_id = string_of(o, "image");
                record->image_name = string_of(o, "image_name");
                record->platform = string_of(o, "platform");
                if (const auto *mounts = o.if_contains("mounts"); mounts && mounts->is_array()) {
                    for (const auto &item : mounts->as_array()) {
                        if (!item.is_object()) continue;
                        const auto &m = item.as_object();
                        record->mounts.push_back({string_of(m, "t"), string_of(m, "n"), string_of(m, "s"),
                                                  string_of(m, "d"), string_of(m, "v"), string_of(m, "m"),
                                                  string_of(m, "p"), flag_of(m, "rw")});
                    }
                }
            }
            if (record->state.dead) record->state.status = "dead";
            if (s.text(7) != "ready") record->state.status = "removing";
            by_name[record->name] = record->id;
            by_id[record->id] = std::move(record);
        }
    });
}

void Containers::Impl::publish(const Record &record, const std::string &action,
                               std::map<std::string, std::string> extra) {
    Event event;
    event.type = "container";
    event.action = action;
    event.id = record.id;
    auto &r = const_cast<Record &>(record);
    std::lock_guard lock(r.mutex);
    event.attributes = record.config->labels;
    event.attributes["image"] = record.image_name;
    event.attributes["name"] = record.name;
    extra.merge(event.attributes); // what is extra wins
    event.attributes = std::move(extra);
    parts.events->publish(std::move(event));
}

ContainerInfo Containers::Impl::snapshot(Record &r) {
    ContainerInfo info;
    info.id = r.id;
    info.image_id = r.image_id;
    info.image_name = r.image_name;
    info.layer = r.layer;
    info.driver = parts.storage_driver;
    info.created_ns = r.created_ns;
    const std::string dir = directory(r.id);
    info.resolv_conf_path = dir + "/resolv.conf";
    info.hostname_path = dir + "/hostname";
    info.hosts_path = dir + "/hosts";
    std::lock_guard lock(r.mutex);
    info.name = r.name;
    info.config = *r.config;
    info.state = r.state;
    info.mounts = r.mounts;
    info.endpoints = r.endpoints;
    info.sandbox_id = r.state.running ? r.sandbox_id : "";
    if (r.config->log_driver != "none") info.log_path = log_path(r);
    for (const auto &[id, exec] : r.execs)
        info.exec_ids.push_back(id);
    info.args = r.config->entrypoint;
    info.args.insert(info.args.end(), r.config->cmd.begin(), r.config->cmd.end());
    if (!info.args.empty()) {
        info.path = info.args.front();
        info.args.erase(info.args.begin());
    }
    if (r.state.restarting) info.state.running = true; // as Docker shows it
    if (r.state.running && r.task) info.state.pid = static_cast<int>(r.task->pid());
    return info;
}

Containers::Containers(const Parts &parts) : impl_(new Impl(parts)) {}
Containers::~Containers() = default;

Created Containers::create(const std::string &name, const ContainerConfig &config,
                           const std::string &platform) {
    return impl_->create(name, config, platform);
}

bool Containers::start(const std::string &name) {
    auto record = impl_->find(name);
    std::lock_guard operation(record->operation);
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + name);
        if (record->state.paused) conflict("cannot start a paused container, try unpause instead");
        if (record->state.running) return false;
        if (record->state.status == "removing" || record->state.dead) {
            conflict("container is marked for removal and cannot be started");
        }
        record->manual_stop = false;
        record->failures = 0;
        record->state.restart_count = 0;
    }
    impl_->start_locked(record);
    return true;
}

bool Containers::stop(const std::string &name, std::optional<int> timeout_s, const std::string &signal) {
    auto record = impl_->find(name);
    int number = signal.empty() ? 0 : parse_signal(signal);
    std::lock_guard operation(record->operation);
    int timeout;
    {
        std::lock_guard lock(record->mutex);
        if (!record->state.running && !record->state.restarting) return false;
        const auto &c = *record->config;
        if (number == 0) number = c.stop_signal.empty() ? 15 : parse_signal(c.stop_signal);
        timeout = timeout_s        ? *timeout_s
                  : c.stop_timeout ? *c.stop_timeout
                                   : static_cast<int>(impl_->parts.config->stop_timeout_s);
    }
    impl_->end_locked(record, number, timeout);
    impl_->publish(*record, "stop");
    return true;
}

void Containers::restart(const std::string &name, std::optional<int> timeout_s, const std::string &signal) {
    auto record = impl_->find(name);
    int number = signal.empty() ? 0 : parse_signal(signal);
    std::lock_guard operation(record->operation);
    bool running;
    int timeout;
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + name);
        running = record->state.running || record->state.restarting;
        const auto &c = *record->config;
        if (number == 0) number = c.stop_signal.empty() ? 15 : parse_signal(c.stop_signal);
        timeout = timeout_s        ? *timeout_s
                  : c.stop_timeout ? *c.stop_timeout
                                   : static_cast<int>(impl_->parts.config->stop_timeout_s);
    }
    if (running) {
        impl_->end_locked(record, number, timeout);
        impl_->publish(*record, "stop");
    }
    {
        std::lock_guard lock(record->mutex);
        record->manual_stop = false;
        record->failures = 0;
        record->state.restart_count = 0;
    }
    impl_->start_locked(record);
    impl_->publish(*record, "restart");
}

void Containers::kill(const std::string &name, const std::string &signal) {
    auto record = impl_->find(name);
    const int number = signal.empty() ? 9 : parse_signal(signal);
    std::shared_ptr<Task> task;
    bool was_paused = false;
    {
        std::lock_guard lock(record->mutex);
        task = need_task(*record, "Cannot kill container: " + name + ": ");
        was_paused = record->state.paused;
        const auto &c = *record->config;
        if (number == 9 || number == (c.stop_signal.empty() ? 15 : parse_signal(c.stop_signal))) {
            record->manual_stop = true;
        }
        if (was_paused && (number == 9 || number == 15)) {
            record->state.paused = false;
            record->state.status = "running";
        } else {
            was_paused = false;
        }
    }
    try {
        task->kill(number);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kNotFound) throw;
        conflict("Cannot kill container: " + name + ": Container " + record->id + " is not running");
    }
    if (was_paused) task->pause(false); // a frozen process takes a signal only after it is thawed
    impl_->publish(*record, "kill", {{"signal", std::to_string(number)}});
    if (number == 9) {
        std::unique_lock lock(record->mutex);
        record->changed.wait_for(lock, std::chrono::seconds(10),
                                 [&] { return record->task != task || record->removed; });
    }
}

void Containers::pause(const std::string &name) {
    auto record = impl_->find(name);
    std::lock_guard operation(record->operation);
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        task = need_task(*record);
        if (record->state.paused) conflict("Container " + record->id + " is already paused");
    }
    task->pause(true);
    {
        std::lock_guard lock(record->mutex);
        record->state.paused = true;
        record->state.status = "paused";
    }
    impl_->save_state(*record);
    impl_->publish(*record, "pause");
}

void Containers::unpause(const std::string &name) {
    auto record = impl_->find(name);
    std::lock_guard operation(record->operation);
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        // dockerd answers 500 here, and clients' tests look for it
        if (!record->state.paused || !record->task) {
            throw Error(ErrorClass::kInternal, "Container " + record->id + " is not paused");
        }
        task = record->task;
    }
    task->pause(false);
    {
        std::lock_guard lock(record->mutex);
        record->state.paused = false;
        if (record->state.running) record->state.status = "running";
    }
    impl_->save_state(*record);
    impl_->publish(*record, "unpause");
}

void Containers::remove(const std::string &name, bool force, bool volumes) {
    auto record = impl_->find(name);
    {
        // Judged before the operation lock, so that a start that hangs does not hold the refusal back.
        std::lock_guard lock(record->mutex);
        if (record->state.running && !force) {
            const std::string what = record->state.paused ? "a paused container " : "a running container ";
            conflict("You cannot remove " + what + record->id +
                     (record->state.paused
                          ? ". Unpause and then stop the container before attempting removal or "
                            "force remove"
                          : ". Stop the container before attempting removal or force remove"));
        }
        if (record->state.status == "removing") {
            conflict("removal of container " + name + " is already in progress");
        }
    }
    std::lock_guard operation(record->operation);
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) {
            if (force) return;
            throw Error(ErrorClass::kNotFound, "No such container: " + name);
        }
        if (record->state.running && !force) {
            conflict("You cannot remove a running container " + record->id +
                     ". Stop the container before attempting removal or force remove");
        }
    }
    impl_->end_locked(record, 9, 10);
    impl_->remove_locked(record, volumes);
}

void Containers::rename(const std::string &name, const std::string &given) {
    auto record = impl_->find(name);
    const std::string new_name = !given.empty() && given[0] == '/' ? given.substr(1) : given;
    std::lock_guard operation(record->operation);
    if (new_name.empty()) throw Error(ErrorClass::kInvalidArgument, "Neither old nor new names may be empty");
    std::string old_name;
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + name);
        old_name = record->name;
    }
    if (old_name == new_name) {
        throw Error(ErrorClass::kInvalidArgument,
                    "Renaming a container with the same name as its current name");
    }
    impl_->reserve_name(new_name, record->id);
    try {
        impl_->parts.db->transact([&](Db &d) {
            d.prepare("UPDATE container SET name = ?1 WHERE id = ?2")
                .bind_all(std::string_view(new_name), std::string_view(record->id))
                .run();
        });
    } catch (...) {
        impl_->release_name(new_name);
        throw;
    }
    {
        std::lock_guard lock(record->mutex);
        record->name = new_name;
    }
    impl_->release_name(old_name);
    impl_->publish(*record, "rename", {{"oldName", "/" + old_name}});
}

void Containers::resize(const std::string &name, uint16_t height, uint16_t width) {
    auto record = impl_->find(name);
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        task = need_task(*record);
    }
    task->resize(height, width);
    impl_->publish(*record, "resize", {{"height", std::to_string(height)}, {"width", std::to_string(width)}});
}

void Containers::update(const std::string &name, const ContainerConfig &changed) {
    auto record = impl_->find(name);
    std::lock_guard operation(record->operation);
    auto next = std::make_shared<ContainerConfig>();
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        *next = *record->config;
        if (record->state.running) task = need_task(*record);
    }
    auto take = [](auto &to, const auto &from) {
        if (from) to = from;
    };
    take(next->memory, changed.memory);
    take(next->memory_swap, changed.memory_swap);
    take(next->memory_reservation, changed.memory_reservation);
    take(next->nano_cpus, changed.nano_cpus);
    take(next->cpu_shares, changed.cpu_shares);
    take(next->cpu_period, changed.cpu_period);
    take(next->cpu_quota, changed.cpu_quota);
    take(next->pids_limit, changed.pids_limit);
    take(next->blkio_weight, changed.blkio_weight);
    if (!changed.cpuset_cpus.empty()) next->cpuset_cpus = changed.cpuset_cpus;
    if (!changed.cpuset_mems.empty()) next->cpuset_mems = changed.cpuset_mems;
    if (!changed.restart_policy.empty()) { // "" : leave as it is
        if (next->auto_remove && changed.restart_policy != "no") {
            conflict("Restart policy cannot be updated because AutoRemove is enabled for the container");
        }
        next->restart_policy = changed.restart_policy;
        next->restart_max = changed.restart_max;
    }
    if (next->memory && next->memory_swap > 0 && next->memory_swap < next->memory) {
        conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the "
            "same time");
    }
    const std::string text = encode_container_config(*next);
    decode_container_config(text); // the rules of create hold here too
    if (task) {
        SpecResources resources = build_resources(*next);
        impl_->parts.runtime->update(*task, resources);
    }
    impl_->parts.db->transact([&](Db &d) {
        d.prepare("UPDATE container SET config = ?1 WHERE id = ?2")
            .bind_all(std::string_view(text), std::string_view(record->id))
            .run();
    });
    {
        std::lock_guard lock(record->mutex);
        record->config = next;
    }
    impl_->publish(*record, "update");
}

ContainerInfo Containers::inspect(const std::string &name) { return impl_->snapshot(*impl_->find(name)); }

std::vector<ContainerInfo> Containers::list(bool all) {
    std::vector<ContainerInfo> out;
    for (const auto &record : impl_->all()) {
        auto info = impl_->snapshot(*record);
        if (all || info.state.running) out.push_back(std::move(info));
    }
    std::sort(out.begin(), out.end(),
              [](const auto &a, const auto &b) { return a.created_ns > b.created_ns; });
    return out;
}

uint64_t Containers::size_rw(const std::string &name) {
    auto record = impl_->find(name);
    return record->layer.empty() ? 0 : impl_->parts.layers->usage(record->layer).bytes;
}

Containers::Counts Containers::counts() {
    Counts counts;
    for (const auto &record : impl_->all()) {
        std::lock_guard lock(record->mutex);
        if (record->state.paused)
            ++counts.paused;
        else if (record->state.running)
            ++counts.running;
        else
            ++counts.stopped;
    }
    return counts;
}

std::unique_ptr<Containers::WaitHandle> Containers::wait(const std::string &name, WaitCondition condition,
                                                         std::function<void(const WaitResult &)> done) {
    auto record = impl_->find(name);
    auto handle = std::make_unique<Handle>();
    handle->record = record;
    handle->waiter = std::make_shared<Waiter>();
    handle->waiter->condition = condition;
    handle->waiter->done = std::move(done);
    std::lock_guard lock(record->mutex);
    const bool now =
        (condition == WaitCondition::kNotRunning && !record->state.running && !record->state.restarting) ||
        record->removed;
    if (now) {
        // Not from this thread: the caller does not have its handle yet.
        const WaitResult result{record->state.exit_code, record->state.error};
        impl_->jobs->post([waiter = handle->waiter, result] { waiter->fire(result); });
    } else {
        record->waiters.push_back(handle->waiter);
    }
    return handle;
}

Containers::Top Containers::top(const std::string &name, const std::string &ps_args) {
    auto record = impl_->find(name);
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        task = need_task(*record);
        if (record->state.restarting)
            conflict("Container " + record->id + " is restarting, wait until the container is running");
    }
    std::vector<std::string> words{"ps"};
    std::istringstream in(ps_args.empty() ? "-ef" : ps_args);
    for (std::string word; in >> word;)
        words.push_back(word);
    std::vector<char *> argv;
    for (auto &word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "run ps");
    UniqueFd read_end(ends[0]), write_end(ends[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, write_end.get(), 1);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    pid_t pid = 0;
    const int failed = ::posix_spawnp(&pid, "ps", &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed) throw Error::from_errno(failed, "run ps");
    write_end.reset();
    std::string output;
    try {
        output = read_all(read_end.get(), 64u << 20, "output of ps");
    } catch (...) {
        read_end.reset();
        ::waitpid(pid, nullptr, 0);
        throw;
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) throw Error(ErrorClass::kInternal, "error running ps: " + ps_args);
    const auto pid_list = task->pids();
    const std::set<pid_t> pids(pid_list.begin(), pid_list.end());
    Top top;
    std::istringstream lines(output);
    std::string line, word;
    std::getline(lines, line);
    for (std::istringstream titles(line); titles >> word;)
        top.titles.push_back(word);
    const auto column = std::find(top.titles.begin(), top.titles.end(), "PID") - top.titles.begin();
    if (column == static_cast<ptrdiff_t>(top.titles.size())) {
        throw Error(ErrorClass::kInvalidArgument, "Couldn't find PID field in ps output");
    }
    while (std::getline(lines, line)) {
        std::istringstream cells(line);
        std::vector<std::string> row;
        while (row.size() + 1 < top.titles.size() && cells >> word)
            row.push_back(word);
        std::getline(cells >> std::ws, word); // the last column is the rest of the line
        row.push_back(word);
        if (static_cast<size_t>(column) >= row.size()) continue;
        if (pids.count(static_cast<pid_t>(std::atoi(row[static_cast<size_t>(column)].c_str())))) {
            top.processes.push_back(std::move(row));
        }
    }
    impl_->publish(*record, "top");
    return top;
}

} // namespace gantry

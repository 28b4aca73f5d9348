// The inside of Containers, shared by its source files.
//
// Locks, outermost first: Record::operation (one start, stop, remove ... of a container at a time, held
// over slow calls), Impl::mutex (the maps), Record::mutex (the fields; never held over a call that can
// block). Exit handling takes no operation lock, so that stop() can wait for it while holding it.
#pragma once

#include "core/container/containers.h"
#include "core/container/jobs.h"
#include "core/container/log_file.h"
#include "core/container/sandbox_pool.h"
#include "core/container/spec_builder.h"
#include "core/runtime/runtime.h"

#include <atomic>
#include <condition_variable>
#include <list>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <unordered_map>

namespace gantry {

struct Waiter {
    std::recursive_mutex mutex; // recursive: `done` may destroy its own handle
    WaitCondition condition = WaitCondition::kNotRunning;
    std::function<void(const WaitResult &)> done;
    void fire(const WaitResult &result) {
        std::lock_guard lock(mutex);
        if (auto call = std::exchange(done, nullptr)) call(result);
    }
};

struct ExecRecord {
    std::mutex mutex;
    ExecInfo info;
    std::shared_ptr<Task> task;
    std::string exit_path;
    bool starting = false;
    std::condition_variable changed; // of info and starting
};

struct PendingAttach {
    UniqueFd connection;
    AttachOptions options;
};

struct Record {
    std::mutex operation;
    std::mutex mutex;
    std::condition_variable changed;

    std::string id, image_id, image_name, layer, platform;
    int64_t created_ns = 0;
    // Guarded by mutex from here on.
    std::string name;
    std::shared_ptr<const ContainerConfig> config;
    ContainerState state;
    std::vector<MountPoint> mounts;
    std::string sandbox_id;
    bool manual_stop = false; // a person ended it: no restart by policy
    bool finishing = false;   // exit seen, clean-up still running
    bool removed = false;
    int failures = 0; // restarts in a row, for the back-off
    uint64_t run = 0; // counts starts, so that late callbacks are known as such
    std::shared_ptr<Task> task;
    std::shared_ptr<const RuntimeSpec> spec; // of the current run, for exec
    std::vector<Endpoint> endpoints;
    std::list<PendingAttach> pending;
    std::list<std::shared_ptr<Waiter>> waiters;
    std::map<std::string, std::shared_ptr<ExecRecord>> execs;
    std::list<std::weak_ptr<UniqueFd>> end_signals; // of log followers
    /// Set while it is said to run but its shim cannot be asked; adoption is tried again.
    std::string unreachable;
};
using RecordPtr = std::shared_ptr<Record>;

struct Containers::Impl {
    Parts parts;
    std::mutex mutex;
    std::unordered_map<std::string, RecordPtr> by_id;
    std::map<std::string, std::string> by_name; // also names being created
    std::unordered_map<std::string, std::pair<RecordPtr, std::shared_ptr<ExecRecord>>> execs;
    bool loaded = false;
    std::map<std::string, std::string> account_cache; // image id + file -> text

    /// Callbacks of tasks outlive this object; they go through the gate.
    struct Gate {
        std::shared_mutex mutex;
        Impl *impl = nullptr;
    };
    std::shared_ptr<Gate> gate = std::make_shared<Gate>();
    std::unique_ptr<SandboxPool> pool, lone_pool; // with an endpoint on the default bridge; without any
    std::unique_ptr<Jobs> jobs;
    /// Exits only, which take no operation lock: jobs may all wait for a stop that waits for an exit.
    std::unique_ptr<Jobs> exits;

    explicit Impl(const Parts &p);
    ~Impl();

    // containers.cpp
    RecordPtr find(const std::string &name);
    std::vector<RecordPtr> all();
    std::string directory(const std::string &id) const;
    std::string log_path(const Record &record) const;
    void save_state(Record &record); // with record.mutex held by nobody else's write
    std::string state_text(const Record &record) const;
    void publish(const Record &record, const std::string &action,
                 std::map<std::string, std::string> extra = {});
    ContainerInfo snapshot(Record &record);
    void load();

    // create.cpp
    Created create(const std::string &name, const ContainerConfig &config, const std::string &platform);
    std::string reserve_name(const std::string &name, const std::string &id);
    void release_name(const std::string &name);
    std::vector<MountPoint> resolve_mounts(const ContainerConfig &config, const std::string &layer,
                                           std::vector<std::string> &new_volumes);

    // start.cpp
    void start_locked(const RecordPtr &record);
    UserIds resolve_container_user(Record &record, const ContainerConfig &config,
                                   const std::vector<Mount> &root);
    void write_files(Record &record, const ContainerConfig &config, const std::vector<Endpoint> &endpoints,
                     SpecInput &input);
    std::string runtime_path(const std::string &name) const; // "" : native

    bool default_shape(const ContainerConfig &config) const;
    std::vector<AttachRequest> network_wishes(const Record &record, const ContainerConfig &config) const;

    // shared_memory.cpp
    std::string shm_path(const std::string &id) const;
    void mount_shm(const std::string &id, const ContainerConfig &config);
    void unmount_shm(const std::string &id) noexcept;

    // lifecycle.cpp
    void watch_exit(const RecordPtr &record, uint64_t run, const std::shared_ptr<Task> &task);
    void handle_exit(const RecordPtr &record, uint64_t run, const ExitStatus &status);
    void fail_start(const RecordPtr &record, const std::string &error, int exit_code);
    bool end_locked(const RecordPtr &record, int signal, int timeout_s);
    void remove_locked(const RecordPtr &record, bool volumes);
    void fire(const RecordPtr &record, std::initializer_list<WaitCondition> conditions,
              const WaitResult &result);
    void schedule_restart(const RecordPtr &record, uint64_t run, int64_t delay_ms);

    // recovery.cpp
    void take_over(const RecordPtr &record, const std::shared_ptr<Task> &task);
    void retry_adoption(const RecordPtr &record, int64_t delay_ms);

    // commit.cpp
    std::vector<Change> changes(const Record &record) const;

    // archive.cpp
    class View;
    /// The container's files as its processes see them, or would; `write` makes them changeable.
    std::unique_ptr<View> view(const RecordPtr &record, bool write);

    // exec.cpp
    std::shared_ptr<ExecRecord> find_exec(const std::string &exec_id, RecordPtr *record = nullptr);
    std::shared_ptr<Task> run_exec(const RecordPtr &record, ExecRecord &exec,
                                   const std::function<void(Task &)> &before_start,
                                   const std::function<void(StartExtras &)> &adjust = {});

    // health.cpp
    void begin_health(Record &record); // with record.mutex held
    void schedule_health(const RecordPtr &record, uint64_t run);
    void probe_health(const RecordPtr &record, uint64_t run);
    void judge_health(const RecordPtr &record, uint64_t run, HealthResult result,
                      const HealthcheckConfig &health);
};

/// "ctrl-p,ctrl-q" -> bytes; throws kInvalidArgument. "" on a terminal: Docker's default.
std::string parse_detach_keys(const std::string &text, bool tty);
/// The client may have gone away, and the descriptor may be non-blocking: false, not an error.
bool send_all(int fd, std::string_view bytes);
/// The task of a running container; throws what clients get to see when there is none. `prefix` stands
/// before "Container ID is not running". record.mutex is held.
std::shared_ptr<Task> need_task(const Record &record, const std::string &prefix = "");
/// adjective_surname.
std::string random_name();
/// Copies the content of one directory into an empty other, all attributes kept.
void copy_tree(int source_fd, int target_fd);
/// Exit code Docker gives a start or exec that failed with this text.
int exit_code_of_error(const std::string &text);
/// 8-byte frame header.
std::string frame_header(int stream, size_t size);

} // namespace gantry

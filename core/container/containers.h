// Containers: creation, life cycle, exec, attach, logs. The engine proper.
#pragma once

#include "core/base/cancel.h"
#include "core/base/fd.h"
#include "core/config/config.h"
#include "core/container/config.h"
#include "core/layer/layers.h"
#include "core/network/networks.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace gantry {

class Db;
class Events;
class Images;
class Layers;
class Networks;
class Runtime;
class Volumes;

struct HealthResult {
    int64_t start_ns = 0, end_ns = 0;
    int exit_code = 0;  // -1: could not be run, or took too long
    std::string output; // the first 4096 bytes
};

struct ContainerState {
    std::string status = "created"; // created running paused restarting removing exited dead
    bool running = false, paused = false, restarting = false, oom_killed = false, dead = false;
    int pid = 0, exit_code = 0, restart_count = 0;
    std::string error;
    int64_t started_ns = 0, finished_ns = 0;
    std::string health;                   // "", "starting", "healthy", "unhealthy"
    int health_failures = 0;              // in a row
    std::vector<HealthResult> health_log; // the last five, oldest first
};

struct MountPoint {
    std::string type, name, source, destination, driver, mode, propagation;
    bool rw = true;
};

/// A snapshot; values, no references.
struct ContainerInfo {
    std::string id, name, image_id, image_name, path, layer, sandbox_id, driver;
    std::vector<std::string> args, exec_ids;
    int64_t created_ns = 0;
    ContainerConfig config; // merged with the image's
    ContainerState state;
    std::vector<MountPoint> mounts;
    std::vector<Endpoint> endpoints;
    std::string resolv_conf_path, hostname_path, hosts_path, log_path;
};

struct ExecConfig {
    std::vector<std::string> cmd, env;
    std::string user, working_dir, detach_keys;
    bool attach_stdin = false, attach_stdout = false, attach_stderr = false, tty = false;
    bool privileged = false;
    uint16_t console_height = 0, console_width = 0;
};

struct ExecInfo {
    std::string id, container_id;
    ExecConfig config;
    bool running = false, started = false;
    std::optional<int> exit_code;
    int pid = 0;
};

struct LogQuery {
    bool stdout_ = true, stderr_ = true, follow = false, timestamps = false;
    int64_t since_ns = 0, until_ns = 0;
    int64_t tail = -1; // -1: all
};
struct LogRecord {
    int stream = 1; // 1 stdout, 2 stderr
    int64_t time_ns = 0;
    std::string text; // with its line end
};

struct AttachRequestOptions {
    bool stdin_ = false, stdout_ = false, stderr_ = false, logs = false, stream = true;
    std::string detach_keys; // "ctrl-p,ctrl-q"; "" : Docker's default, on a terminal only
};

enum class WaitCondition { kNotRunning, kNextExit, kRemoved };
struct WaitResult {
    int status = 0;
    std::string error;
};

struct Created {
    std::string id;
    std::vector<std::string> warnings;
};

struct CommitRequest {
    std::optional<ImageReference> ref;
    std::string author, comment;
    std::string overrides;            // a "Config" object of Docker's dialect; "" for none
    std::vector<std::string> changes; // Dockerfile instructions
    bool pause = true;                // freeze the processes meanwhile
};

/// What the archive calls say of a path.
struct PathStat {
    std::string name; // last component of what was asked for
    uint64_t size = 0;
    uint32_t mode = 0; // st_mode
    int64_t mtime_ns = 0;
    std::string link_target; // of a symlink, resolved within the container
};

struct ExtractOptions {
    bool no_overwrite_dir_non_dir = false; // a directory and something else never replace each other
    bool container_owner = false;          // what is written belongs to the container's user
};

/// Thread-safe. Names: full id, unique prefix, name with or without "/". kNotFound
/// "No such container: X". Messages are Docker's where clients look at them (design notes in the tests).
class Containers {
  public:
    struct Parts {
        Db *db;
        Events *events;
        Images *images;
        Layers *layers;
        Networks *networks;
        Volumes *volumes;
        Runtime *runtime;
        const EngineConfig *config;
        std::string storage_driver;
    };
    explicit Containers(const Parts &parts);
    ~Containers(); // leaves containers running

    /// Adopts what runs, records what has ended meanwhile, restarts by policy, fills the warm pool.
    void recover();
    /// Owners (container and sandbox ids) whose network endpoints must live on; before recover().
    std::vector<std::string> live_owners();

    Created create(const std::string &name, const ContainerConfig &config, const std::string &platform);
    bool start(const std::string &name); // false: was running (304)
    bool stop(const std::string &name, std::optional<int> timeout_s, const std::string &signal);
    void restart(const std::string &name, std::optional<int> timeout_s, const std::string &signal);
    void kill(const std::string &name, const std::string &signal);
    void pause(const std::string &name);
    void unpause(const std::string &name);
    void remove(const std::string &name, bool force, bool volumes);
    void rename(const std::string &name, const std::string &new_name);
    void resize(const std::string &name, uint16_t height, uint16_t width);
    void update(const std::string &name, const ContainerConfig &changed);
    ContainerInfo inspect(const std::string &name);
    std::vector<ContainerInfo> list(bool all);
    struct Top {
        std::vector<std::string> titles;
        std::vector<std::vector<std::string>> processes;
    };
    Top top(const std::string &name, const std::string &ps_args);
    uint64_t size_rw(const std::string &name);

    /// Arms at once; `done` is called exactly once, from any thread, unless the returned handle is
    /// destroyed first (a client that went away).
    class WaitHandle {
      public:
        virtual ~WaitHandle() = default;
    };
    std::unique_ptr<WaitHandle> wait(const std::string &name, WaitCondition condition,
                                     std::function<void(const WaitResult &)> done);

    /// `accept` tells the client that it is attached and gives its connection; a container that is not
    /// started yet keeps it until start. Once told, the client may start the container at any moment, so
    /// accept is called where no start can come in between. `logs` sends what was logged before.
    void attach(const std::string &name, const std::function<UniqueFd()> &accept,
                const AttachRequestOptions &options);
    void attach(const std::string &name, UniqueFd connection, const AttachRequestOptions &options);
    /// Calls `sink` for each record until the end, `cancel`, or sink returns false.
    void logs(const std::string &name, const LogQuery &query, const CancelSource &cancel,
              const std::function<bool(const LogRecord &)> &sink);

    std::string exec_create(const std::string &name, const ExecConfig &config);
    /// Detached when `connection` is invalid. A command that cannot be started is written to the
    /// connection as Docker does, with exit code 126 or 127 kept for exec_inspect.
    void exec_start(const std::string &exec_id, UniqueFd connection, bool detach, uint16_t height,
                    uint16_t width);
    /// Never "running" for a process that has ended: waits (2 s at most) for an exit that is on its way.
    ExecInfo exec_inspect(const std::string &exec_id);
    void exec_resize(const std::string &exec_id, uint16_t height, uint16_t width);

    /// What differs from the image, sorted by path; not what the engine itself put there.
    std::vector<Change> changes(const std::string &name);
    /// A new image of the container's changes. Returns its id.
    std::string commit(const std::string &name, const CommitRequest &request, const CancelSource &cancel);
    /// The root file system as a tar; volumes and mounts are left out.
    void export_tree(const std::string &name, const ByteSink &sink, const CancelSource &cancel);

    // Files of running and stopped containers, as their processes see them: volumes and binds
    // included. Links are followed within the container only, whatever its processes do meanwhile.
    /// The path as asked for: a final symlink is shown, not followed. kNotFound.
    PathStat stat_path(const std::string &name, const std::string &path);
    /// The file, or the directory with everything below, as a tar whose names begin with the path's
    /// last component. `begin` comes before the first byte.
    void read_archive(const std::string &name, const std::string &path,
                      const std::function<void(const PathStat &)> &begin, const ByteSink &sink,
                      const CancelSource &cancel);
    /// Extracts a tar (plain, gzip or zstd) into the directory at `path`.
    void write_archive(const std::string &name, const std::string &path, const ExtractOptions &options,
                       const ByteSource &source, const CancelSource &cancel);

    // For the check of what is there (core/check).
    /// Ids, also of those that are being made.
    std::set<std::string> ids();
    /// Sandboxes that run or are kept ready, and who may own endpoints: nullopt while a container is being
    /// started or stopped, for then nobody can tell.
    struct Owned {
        std::set<std::string> sandboxes, owners;
    };
    std::optional<Owned> owned();

    struct Counts {
        int running = 0, paused = 0, stopped = 0;
    };
    Counts counts();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry

// Starting and supervising processes through gantry-shim, one shim per container and per exec.
//
// A start has two halves. prepare() gives a sandbox: a shim with a forked child that waits in its new
// namespaces and cgroup, the network namespace reachable by fd; it depends on nothing but the set of
// namespaces, so sandboxes can be kept warm. start() sends the compiled start plan. Both halves are
// recorded in run/sandboxes/<id>/ so that a restarted engine can adopt() what runs.
#pragma once

#include "core/base/fd.h"
#include "core/runtime/spec.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

struct ExitStatus {
    int code = 0; // 0..255, 128+signal when killed
    int signal = 0;
    bool oom_killed = false;
    int64_t finished_ns = 0; // wall clock
    std::string error;       // set when the process could not be started; the text Docker clients look at
};

/// Everything of a start that the OCI document does not say.
struct StartExtras {
    std::vector<Mount> rootfs; // from the storage driver
    std::string log_path;      // json-file log; "" for none
    uint64_t log_max_size = 0;
    uint32_t log_max_files = 0;
    std::string exit_path; // where the shim records the exit status durably
    bool open_stdin = false, stdin_once = false;
    bool init = false;            // reap zombies and forward signals as pid 1 (--init)
    std::string external_runtime; // path of runc or another OCI runtime; "" : native
    std::string bundle;           // directory for config.json when external
    /// Seconds-free hook point: files already prepared in the container's state directory are plain bind
    /// mounts of the document (/etc/hosts, resolv.conf, hostname).
};

struct AttachOptions {
    bool stdin_ = false, stdout_ = false, stderr_ = false;
    bool multiplexed = true; // 8-byte frames; false for a terminal
    std::string detach_keys; // bytes; "" : the shim does not look for any
};

/// One supervised process: a container's init or an exec. Thread-safe.
class Task {
  public:
    virtual ~Task() = default; // does not end the process
    virtual const std::string &id() const = 0;
    virtual pid_t shim_pid() const = 0;
    virtual pid_t pid() const = 0; // host pid of the supervised process; 0 before start and after exit
    /// Signals through a pidfd or the shim, never a recycled pid. kNotFound when it is gone.
    virtual void kill(int signal) = 0;
    /// Every process of the container (cgroup), for stop and rm -f.
    virtual void kill_all(int signal) = 0;
    /// The process and what it started in its own process group, through the shim: for an exec that
    /// has to end with its children.
    virtual void kill_group(int signal) = 0;
    virtual void pause(bool frozen) = 0;
    virtual void resize(uint16_t height, uint16_t width) = 0;
    /// Hands the connection to the shim, which writes to it directly from then on: an attached session
    /// outlives the engine. The shim half-closes and closes it. Call before start() to miss nothing.
    virtual void attach(UniqueFd connection, const AttachOptions &options) = 0;
    virtual std::optional<ExitStatus> exit_status() const = 0;
    /// True as soon as the process is dead, which is before its exit_status() is known.
    virtual bool process_ended() const = 0;
    /// Called once, from the runtime's event thread, also when the exit is already known.
    virtual void on_exit(std::function<void(const ExitStatus &)> callback) = 0;
    /// Blocks; nullopt on time-out (-1: for ever).
    virtual std::optional<ExitStatus> wait(int timeout_ms) = 0;
    virtual std::vector<pid_t> pids() const = 0;
    virtual UniqueFd netns() const = 0; // invalid fd when it shares another's
};

/// A prepared sandbox, not yet started.
class Sandbox {
  public:
    virtual ~Sandbox() = default; // ends the shim unless started
    virtual const std::string &id() const = 0;
    virtual int netns_fd() const = 0;   // -1 unless it has a namespace of its own
    virtual pid_t init_pid() const = 0; // waiting child; for /proc/PID/ns paths
};

struct RuntimeSettings {
    std::string shim_path, run_dir, cgroup_parent, engine_id;
};

class Runtime {
  public:
    static std::unique_ptr<Runtime> make(const RuntimeSettings &settings);
    virtual ~Runtime() = default; // leaves everything running

    /// Namespaces as in the document ("path" set: joined). An empty list is Docker's default set.
    virtual std::unique_ptr<Sandbox> prepare(const std::string &sandbox_id,
                                             const std::vector<SpecNamespace> &namespaces) = 0;
    /// Returns once execve has succeeded or failed; a failure throws with Docker's texts
    /// ("exec: \"x\": executable file not found in $PATH", kInvalidArgument) and ends the sandbox.
    /// `before_start` runs when the task exists but its process has not been released: attach there.
    virtual std::shared_ptr<Task> start(std::unique_ptr<Sandbox> sandbox, const RuntimeSpec &spec,
                                        const StartExtras &extras,
                                        const std::function<void(Task &)> &before_start) = 0;
    /// A process inside a running container. `spec` is the container's document with process replaced.
    virtual std::shared_ptr<Task> exec(Task &container, const std::string &exec_id, const RuntimeSpec &spec,
                                       const StartExtras &extras,
                                       const std::function<void(Task &)> &before_start) = 0;
    /// After a restart: reconnects to the shim, or reads the recorded exit. nullptr when the sandbox is
    /// gone without a trace. Throws when its shim is there and cannot be asked (stopped, overloaded): the
    /// container may well be running, so nothing of it is touched; try again.
    virtual std::shared_ptr<Task> adopt(const std::string &sandbox_id, const std::string &exit_path) = 0;
    /// Sandboxes and cgroups under run_dir that belong to none of `known` are ended and removed. Execs in
    /// those go on, as their clients talk to the shim; except those whose id begins with "probe-", which
    /// nobody waits for any more.
    virtual void sweep(const std::vector<std::string> &known) = 0;
    virtual void update(Task &task, const SpecResources &resources) = 0;
    /// "1", "hybrid" or "2", for info.
    virtual std::string cgroup_version() const = 0;
};

} // namespace gantry

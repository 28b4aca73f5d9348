// What the cases stand on: an instance of the driver, calls whose reports are recorded, and a look at what a
// call did to the process.
#pragma once

#include "kit.h"

#include "core/base/cancel.h"
#include "core/plugin/load.h"
#include "core/store/db.h"

#include <map>
#include <memory>
#include <set>

namespace gantry::kit {

/// A gantry_call with a recording error sink. One at a time per object.
class RecordedCall {
  public:
    RecordedCall();
    RecordedCall(const RecordedCall &) = delete;
    RecordedCall &operator=(const RecordedCall &) = delete;

    const gantry_call *raw() const { return &call_; }
    void cancel_at_once(); // cancel_fd is readable from now on
    void deadline_passed();
    void deadline_in_ms(int64_t left);
    void cancel_later(); // cancel_fd is there; cancel_now() makes it readable
    void cancel_now();
    const std::string &message() const { return report_.message; }
    const std::string &logged() const { return logged_; }

    /// Checks what the contract says of a failure: the sink was set once, with this class and a sentence.
    void require_report(gantry_status status, const std::string &doing) const;
    /// `status` is one of `wanted`, reported as it must be.
    void require_class(gantry_status status, std::initializer_list<gantry_status> wanted,
                       const std::string &doing) const;
    void require_ok(gantry_status status, const std::string &doing) const;

  private:
    struct Report {
        int count = 0;
        gantry_status status = GANTRY_OK;
        std::string message;
        bool whole = true;
    } report_;
    std::string logged_;
    gantry_error_sink sink_{};
    gantry_call call_{};
    UniqueFd cancel_read_, cancel_write_;
};

const char *class_name(gantry_status status);

/// load -> init -> create, and back. Directories below the case's.
class Bench {
  public:
    Bench(const Subject &subject, const std::string &dir);
    ~Bench();

    /// Ends the instance and makes another on the same state, as a restarted engine does.
    void reopen();
    void close(); // destroy and deinit
    gantry_driver *driver() const { return instance_->driver; }
    template <typename Table> const Table &table() const { return instance_->table<Table>(); }
    const std::shared_ptr<Instance> &instance() const { return instance_; }
    const std::string &root() const { return start_.root; }
    const std::string &run() const { return start_.run; }

  private:
    void destroy();
    const Subject &subject_;
    DriverStart start_;
    std::unique_ptr<Db> db_;
    std::unique_ptr<PluginServices> services_;
    std::shared_ptr<LoadedPlugin> plugin_;
    std::shared_ptr<Instance> instance_;
};

/// What a driver must leave as it found it.
struct Footprint {
    std::map<int, std::string> descriptors; // number -> what it is
    std::string mounts, directory, mask;
    std::map<std::string, std::string> processes; // of the case: number -> name
    std::set<std::string> links;
    unsigned file_mask = 0;
    static Footprint take();
    /// "" when nothing changed.
    std::string changes_since(const Footprint &before) const;
};

/// Work in a child process that is killed before its n-th system call. `prepare` runs unwatched; false:
/// `work` came to its end. `total` is set then.
bool kill_before_call(size_t n, const std::function<void()> &prepare, const std::function<void()> &work,
                      size_t &total);

/// Rounds of kill_before_call over all system calls of a step, at most about `points` of them.
void kill_at_each_call(size_t points, const std::function<bool(size_t n, size_t &total)> &round);

/// Runs `work` on `count` threads that begin together; the first failure is thrown.
void in_parallel(int count, const std::function<void(int)> &work);

} // namespace gantry::kit

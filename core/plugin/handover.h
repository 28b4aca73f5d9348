// A hung call must end for its caller although nothing can stop the thread it hangs in. So a call runs on
// a thread of its own and its caller waits, for the deadline at most, and then leaves. What the plugin may
// still read or write lives in a frame that both own; what belongs to the caller (sinks, progress) is
// behind a gate that closes when it leaves. The alternatives were measured (tests/bench/abi_bench.cpp): on
// the caller's thread (isolation = "none") a call costs tens of nanoseconds but a hang takes the caller
// along; a child process (isolation = "process") costs somewhat more than this and can be killed.
#pragma once

#include "core/base/fd.h"
#include "core/config/config.h"

#include <gantry/call.hpp>
#include <gantry/network.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

namespace gantry {

/// The host holds no transaction while it calls a driver. Every transport asks this on the caller's thread;
/// throws kInternal, so that whoever breaks the rule fails in each test that comes along.
void refuse_in_transaction(const char *operation);

/// Runs jobs on threads that end after some idle seconds. Never waits: as many threads as jobs.
void run_on_call_thread(std::function<void()> job);

/// What is known of one plugin's calls. Shared with calls that were given up and still run.
class CallRecord {
  public:
    static constexpr int kHungLimit = 8;

    explicit CallRecord(std::string plugin, std::string table)
        : plugin(std::move(plugin)), table(std::move(table)) {}

    const std::string plugin;                             // its name
    const std::string table;                              // "storage.overlay", for hints
    std::atomic<int64_t> end_limit_ns{10ll * 1000000000}; // for destroy and deinit, which get no call
    std::atomic<int> given_up{0}; // calls that nobody waits for any more and that have not returned

    bool hung() const noexcept { return given_up.load(std::memory_order_relaxed) >= kHungLimit; }
    /// Throws kUnavailable when so many calls hang that another would only add to them.
    void refuse_when_hung(const char *operation) const;
    Error over(const char *operation, int64_t limit_ns, bool silent) const;
};

struct CallLimit {
    const char *operation = "";
    int64_t timeout_ns = 0;
    bool pause_only = false; // the limit is the longest pause between signs of life, not the whole
};

/// Shared by a caller and the thread that works for it.
class CallFrame {
  public:
    CallFrame(const Call &outer, const CallLimit &limit);
    CallFrame(const CallFrame &) = delete;
    CallFrame &operator=(const CallFrame &) = delete;

    /// What the plugin gets; valid as long as the frame.
    Call call() const noexcept { return Call(&raw_); }
    int64_t deadline_ns() const noexcept { return raw_.deadline_ns; }

    /// Runs `work`, which uses what is the caller's, unless the caller has left (then throws).
    template <typename F> auto through_gate(F &&work) {
        const std::lock_guard lock(gate_);
        if (!open_) throw Error(ErrorClass::kCancelled, "hand over results: the caller has given up");
        moved_ns_.store(Call::now_ns(), std::memory_order_relaxed);
        return work();
    }

  private:
    friend void hand_over(const std::shared_ptr<CallRecord> &, const std::shared_ptr<CallFrame> &,
                          const CallLimit &, std::function<void(const Call &)>);
    void finish(std::exception_ptr error) noexcept;
    bool leave() noexcept; // false when the work has ended meanwhile

    gantry_call raw_{};
    gantry_error_sink sink_{};
    const gantry_call *outer_; // only through the gate
    UniqueFd cancel_;
    const int wake_fd_; // of the caller's thread; written once, unless it has left
    std::string subject_;
    std::vector<std::pair<std::string, std::string>> label_text_;
    std::vector<gantry_label> labels_;
    std::mutex gate_;
    bool open_ = true;
    const int64_t started_ns_;
    std::atomic<int64_t> moved_ns_;

    std::mutex mutex_; // guards what follows
    bool done_ = false, left_ = false;
    std::exception_ptr error_;
};

/// Runs `work` on a call thread and waits. Throws what it throws, kDeadline when the limit is over, and
/// kCancelled when the caller cancelled and the plugin does not react. `work` must own all it uses.
void hand_over(const std::shared_ptr<CallRecord> &record, const std::shared_ptr<CallFrame> &frame,
               const CallLimit &limit, std::function<void(const Call &)> work);

/// hand_over for work without arguments of a driver call: init, create, destroy, probe.
void hand_over(const std::shared_ptr<CallRecord> &record, const CallLimit &limit,
               std::function<void(const Call &)> work);
/// Calls that run on call threads just now, in the whole process.
int calls_under_way() noexcept;

/// One argument as the frame keeps it.
template <typename T> struct Kept {
    T value;
    Kept(const std::shared_ptr<CallFrame> &, const T &from) : value(from) {}
    const T &get() { return value; }
    void give_back(const T &) {}
};
template <> struct Kept<std::string *> {
    std::string value;
    bool wanted;
    Kept(const std::shared_ptr<CallFrame> &, std::string *to) : wanted(to != nullptr) {}
    std::string *get() { return wanted ? &value : nullptr; }
    void give_back(std::string *to) {
        if (to) *to = std::move(value);
    }
};
/// The caller closes its descriptor when it leaves; a plugin that goes on must not enter whatever took
/// the number.
template <> struct Kept<EndpointSpec> {
    EndpointSpec value;
    UniqueFd netns;
    Kept(const std::shared_ptr<CallFrame> &, const EndpointSpec &from);
    const EndpointSpec &get() { return value; }
    void give_back(const EndpointSpec &) {}
};
template <typename R, typename... A> struct Kept<std::function<R(A...)>> {
    std::function<R(A...)> value;
    Kept(const std::shared_ptr<CallFrame> &frame, const std::function<R(A...)> &to)
        : value([frame = frame.get(), &to](A... args) {
              return frame->through_gate([&] { return to(args...); });
          }) {}
    const std::function<R(A...)> &get() { return value; }
    void give_back(const std::function<R(A...)> &) {}
};

/// Transport of forward.h on the caller's own thread: the plugin is told its deadline and trusted to obey.
template <typename Driver> class DirectCalls {
  public:
    DirectCalls(std::shared_ptr<Driver> inner, DriverHosting hosting)
        : inner_(std::move(inner)), hosting_(std::move(hosting)) {}

    bool has_changes() const { return inner_->has_changes(); }

    template <auto method, typename... A>
    auto call(const Call &outer, const char *operation, bool pause_only, A &&...args) const {
        refuse_in_transaction(operation);
        if (pause_only || outer.deadline_ns() != 0) return (inner_.get()->*method)(outer, args...);
        gantry_call raw{};
        std::memcpy(static_cast<void *>(&raw), outer.raw(),
                    std::min<size_t>(sizeof raw, outer.raw()->struct_size));
        raw.deadline_ns = Call::now_ns() + hosting_.timeout_of(operation);
        return (inner_.get()->*method)(Call(&raw), args...);
    }

  private:
    std::shared_ptr<Driver> inner_;
    DriverHosting hosting_;
};

/// Transport of forward.h: every call is handed over to a thread.
template <typename Driver> class ThreadCalls {
  public:
    ThreadCalls(std::shared_ptr<Driver> inner, std::shared_ptr<CallRecord> record, DriverHosting hosting)
        : inner_(std::move(inner)), record_(std::move(record)), hosting_(std::move(hosting)) {}

    bool has_changes() const { return inner_->has_changes(); }

    template <auto method, typename... A>
    auto call(const Call &outer, const char *operation, bool pause_only, A &&...args) const {
        using R = decltype((inner_.get()->*method)(outer, args...));
        using Result = std::conditional_t<std::is_void_v<R>, std::monostate, R>;
        struct Job {
            std::shared_ptr<Driver> driver;
            std::tuple<Kept<std::decay_t<A>>...> kept;
            std::optional<Result> result;
        };
        record_->refuse_when_hung(operation);
        const CallLimit limit{operation, hosting_.timeout_of(operation), pause_only};
        auto frame = std::make_shared<CallFrame>(outer, limit);
        auto job = std::make_shared<Job>(Job{inner_, {Kept<std::decay_t<A>>(frame, args)...}, {}});
        hand_over(record_, frame, limit, [job](const Call &call) {
            std::apply(
                [&](auto &...kept) {
                    if constexpr (std::is_void_v<R>) {
                        (job->driver.get()->*method)(call, kept.get()...);
                        job->result.emplace();
                    } else {
                        job->result.emplace((job->driver.get()->*method)(call, kept.get()...));
                    }
                },
                job->kept);
        });
        std::apply([&](auto &...kept) { (kept.give_back(args), ...); }, job->kept);
        // hand_over() returned, so the job has set it. NOLINTNEXTLINE(bugprone-unchecked-optional-access)
        if constexpr (!std::is_void_v<R>) return std::move(*job->result);
    }

  private:
    std::shared_ptr<Driver> inner_;
    std::shared_ptr<CallRecord> record_;
    DriverHosting hosting_;
};

} // namespace gantry

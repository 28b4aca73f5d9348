#include "core/plugin/handover.h"

#include "core/base/cancel.h"
#include "core/base/log.h"
#include "core/store/db.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fmt/format.h>
#include <optional>
#include <poll.h>
#include <pthread.h>
#include <thread>

namespace gantry {
namespace {

constexpr int64_t kMillisecond = 1000000;
// An obedient plugin notices the deadline itself and says what it was doing; it gets this long to do so.
constexpr int64_t kGrace = 100 * kMillisecond;
constexpr int64_t kCancelGrace = 2000 * kMillisecond;
constexpr int kIdleMs = 5000;

/// Threads wake each other by a byte in a pipe and not by a futex: the kernel then knows that the waker is
/// about to sleep and lets the other run on the same core at once. On a busy machine that halves the cost.
struct Pipe {
    UniqueFd read, write;
    Pipe() {
        int fds[2];
        if (::pipe2(fds, O_CLOEXEC) != 0) throw Error::from_errno(errno, "prepare call of a plugin");
        read.reset(fds[0]);
        write.reset(fds[1]);
    }
};
void put_byte(int fd) noexcept {
    while (::write(fd, "", 1) < 0 && errno == EINTR) {
    }
}
void take_byte(int fd) noexcept {
    char byte;
    while (::read(fd, &byte, 1) < 0 && errno == EINTR) {
    }
}

struct Worker {
    Pipe pipe;
    std::function<void()> job; // of whoever took the worker from the idle ones, until the byte
};
/// Never destroyed: a thread may hang in a plugin until the process ends.
struct Threads {
    std::mutex mutex;
    std::vector<Worker *> idle;
    std::atomic<int> busy{0}, forks{0};
};
Threads &threads() {
    static auto *const all = [] {
        auto *t = new Threads;
        // A forked child has none of these threads, and bytes in their pipes would go to its parent's.
        ::pthread_atfork([] { threads().mutex.lock(); }, [] { threads().mutex.unlock(); },
                         [] {
                             threads().idle.clear();
                             threads().busy = 0;
                             ++threads().forks;
                             threads().mutex.unlock();
                         });
        return t;
    }();
    return *all;
}

const Pipe &own_pipe() {
    thread_local std::optional<Pipe> pipe;
    thread_local int forks = -1;
    if (const int now = threads().forks; !pipe || forks != now) {
        pipe.emplace();
        forks = now;
    }
    return *pipe;
}

void serve_jobs(std::unique_ptr<Worker> worker) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr); // signals are the main thread's
    pthread_setname_np(pthread_self(), "plugin-call");
    Threads &t = threads();
    for (;;) {
        worker->job();
        worker->job = nullptr;
        t.busy.fetch_sub(1);
        {
            const std::lock_guard lock(t.mutex);
            t.idle.push_back(worker.get());
        }
        pollfd p{worker->pipe.read.get(), POLLIN, 0};
        if (::poll(&p, 1, kIdleMs) <= 0) {
            const std::lock_guard lock(t.mutex);
            if (std::erase(t.idle, worker.get()) > 0) return;
        }
        take_byte(worker->pipe.read.get());
    }
}

std::string text_of(int64_t ns) {
    const int64_t ms = std::max<int64_t>((ns + kMillisecond / 2) / kMillisecond, 0);
    return ms % 1000 == 0 ? fmt::format("{}s", ms / 1000) : fmt::format("{}ms", ms);
}

} // namespace

void run_on_call_thread(std::function<void()> job) {
    Threads &t = threads();
    t.busy.fetch_add(1);
    {
        std::unique_lock lock(t.mutex);
        if (!t.idle.empty()) {
            Worker *worker = t.idle.back(); // the warmest
            t.idle.pop_back();
            lock.unlock();
            worker->job = std::move(job);
            put_byte(worker->pipe.write.get());
            return;
        }
    }
    try {
        auto worker = std::make_unique<Worker>();
        worker->job = std::move(job);
        std::thread(serve_jobs, std::move(worker)).detach();
    } catch (const std::system_error &e) {
        t.busy.fetch_sub(1);
        throw Error::from_errno(e.code().value(), "start thread for a plugin's call");
    } catch (...) {
        t.busy.fetch_sub(1);
        throw;
    }
}

int calls_under_way() noexcept { return threads().busy.load(); }

void refuse_in_transaction(const char *operation) {
    if (Db::in_transaction())
        throw Error(ErrorClass::kInternal,
                    fmt::format("call {} of a driver: within a database transaction", operation),
                    "this is a bug of the engine; report it");
}

void CallRecord::refuse_when_hung(const char *operation) const {
    if (hung())
        throw Error(
            ErrorClass::kUnavailable,
            fmt::format("plugin {}: {} refused, because {} earlier calls hang in it", plugin, operation,
                        given_up.load()),
            fmt::format("restart the engine; isolation = \"process\" in [{}] ends hung calls for good",
                        table));
}

Error CallRecord::over(const char *operation, int64_t limit_ns, bool silent) const {
    return {ErrorClass::kDeadline,
            fmt::format("plugin {}: {} {} {} and was given up", plugin, operation,
                        silent ? "gave no sign of life for" : "did not return within its deadline of",
                        text_of(limit_ns)),
            fmt::format("call_timeout and call_timeouts.{} in [{}] set this limit", operation, table)};
}

CallFrame::CallFrame(const Call &outer, const CallLimit &limit)
    : outer_(outer.raw()), wake_fd_(own_pipe().write.get()), subject_(outer.subject()),
      started_ns_(Call::now_ns()), moved_ns_(started_ns_) {
    refuse_in_transaction(limit.operation);
    const gantry_call &from = *outer.raw();
    raw_.struct_size = sizeof raw_;
    raw_.cancel_fd = -1;
    if (from.cancel_fd >= 0) {
        cancel_.reset(::fcntl(from.cancel_fd, F_DUPFD_CLOEXEC, 3));
        if (!cancel_) throw Error::from_errno(errno, "prepare call of a plugin");
        raw_.cancel_fd = cancel_.get();
    }
    raw_.deadline_ns = from.deadline_ns;
    if (!limit.pause_only && limit.timeout_ns > 0) {
        const int64_t own = started_ns_ + limit.timeout_ns;
        raw_.deadline_ns = raw_.deadline_ns ? std::min(raw_.deadline_ns, own) : own;
    }
    sink_.struct_size = sizeof sink_;
    sink_.set = [](void *, gantry_status, int32_t, const char *, const char *) {}; // proxies use their own
    raw_.error = &sink_;
    raw_.ctx = this;
    if (from.progress)
        raw_.progress = [](void *ctx, const char *what, uint64_t done, uint64_t total) {
            auto &self = *static_cast<CallFrame *>(ctx);
            const std::lock_guard lock(self.gate_);
            self.moved_ns_.store(Call::now_ns(), std::memory_order_relaxed);
            if (self.open_) self.outer_->progress(self.outer_->ctx, what, done, total);
        };
    if (from.log)
        raw_.log = [](void *ctx, int32_t level, const char *message) {
            auto &self = *static_cast<CallFrame *>(ctx);
            const std::lock_guard lock(self.gate_);
            if (self.open_) self.outer_->log(self.outer_->ctx, level, message);
        };
    raw_.subject = subject_.c_str();
    for (uint32_t i = 0; i < from.label_count; ++i)
        label_text_.emplace_back(from.labels[i].key, from.labels[i].value);
    for (const auto &[key, value] : label_text_)
        labels_.push_back({key.c_str(), value.c_str()});
    raw_.labels = labels_.data();
    raw_.label_count = static_cast<uint32_t>(labels_.size());
}

void CallFrame::finish(std::exception_ptr error) noexcept {
    bool wake = false;
    {
        const std::lock_guard lock(mutex_);
        done_ = true;
        error_ = std::move(error);
        wake = !left_;
    }
    if (wake) put_byte(wake_fd_); // a caller that sees done_ first waits for this byte
}

bool CallFrame::leave() noexcept {
    {
        const std::lock_guard lock(mutex_);
        if (done_) return false;
        left_ = true;
    }
    // Waits for a sink that runs just now: it is the caller's own code, and it ends.
    const std::lock_guard lock(gate_);
    open_ = false;
    return true;
}

void hand_over(const std::shared_ptr<CallRecord> &record, const std::shared_ptr<CallFrame> &frame,
               const CallLimit &limit, std::function<void(const Call &)> work) {
    run_on_call_thread([record, frame, work = std::move(work)]() mutable {
        std::exception_ptr error;
        try {
            work(frame->call());
        } catch (...) {
            error = std::current_exception();
        }
        work = nullptr; // before the caller goes on: what it owned is the caller's again, or nobody's
        frame->finish(std::move(error));
        const bool left = [&] {
            const std::lock_guard lock(frame->mutex_);
            return frame->left_;
        }();
        if (left) {
            record->given_up.fetch_sub(1);
            log_warn("plugin {}: a call that was given up has returned", record->plugin);
        }
    });
    CallFrame &f = *frame;
    int64_t cancelled_ns = 0;
    enum class Cause { kNone, kDeadline, kSilence, kCancelled };
    const auto end_of_wait = [&] {
        std::pair<int64_t, Cause> end{INT64_MAX, Cause::kNone};
        if (f.raw_.deadline_ns) end = {f.raw_.deadline_ns + kGrace, Cause::kDeadline};
        if (limit.pause_only && limit.timeout_ns > 0)
            end = std::min(end,
                           {f.moved_ns_.load(std::memory_order_relaxed) + limit.timeout_ns, Cause::kSilence});
        if (cancelled_ns) end = std::min(end, {cancelled_ns + kCancelGrace, Cause::kCancelled});
        return end;
    };
    for (;;) {
        const int64_t left = end_of_wait().first - Call::now_ns();
        if (left > 0) {
            pollfd p[] = {{own_pipe().read.get(), POLLIN, 0},
                          {cancelled_ns ? -1 : f.cancel_.get(), POLLIN, 0}};
            (void)::poll(p, 2, static_cast<int>(std::min<int64_t>(left / kMillisecond + 1, 1 << 30)));
            if (p[1].revents) cancelled_ns = Call::now_ns();
        }
        {
            std::unique_lock lock(f.mutex_);
            if (f.done_) {
                const std::exception_ptr error = std::exchange(f.error_, nullptr);
                lock.unlock();
                take_byte(own_pipe().read.get());
                if (error) std::rethrow_exception(error);
                return;
            }
        }
        const auto [end, cause] = end_of_wait();
        if (Call::now_ns() < end) continue;
        record->given_up.fetch_add(1);
        if (!f.leave()) { // it has just ended
            record->given_up.fetch_sub(1);
            continue;
        }
        if (cause == Cause::kCancelled)
            throw Error(ErrorClass::kCancelled,
                        fmt::format("plugin {}: {} was cancelled, did not react and was given up",
                                    record->plugin, limit.operation));
        const bool silent = cause == Cause::kSilence;
        throw record->over(limit.operation, silent ? limit.timeout_ns : f.raw_.deadline_ns - f.started_ns_,
                           silent);
    }
}

void hand_over(const std::shared_ptr<CallRecord> &record, const CallLimit &limit,
               std::function<void(const Call &)> work) {
    const CallScope scope;
    hand_over(record, std::make_shared<CallFrame>(scope, limit), limit, std::move(work));
}

Kept<EndpointSpec>::Kept(const std::shared_ptr<CallFrame> &, const EndpointSpec &from) : value(from) {
    if (from.netns_fd < 0) return;
    netns.reset(::fcntl(from.netns_fd, F_DUPFD_CLOEXEC, 3));
    if (!netns) throw Error::from_errno(errno, "keep namespace of endpoint " + from.id.substr(0, 12));
    value.netns_fd = netns.get();
}

} // namespace gantry

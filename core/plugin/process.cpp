#include "core/plugin/process.h"

#include "core/base/cancel.h"
#include "core/base/log.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <gantry/thunk.hpp>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int64_t kMillisecond = 1000000, kSecond = 1000 * kMillisecond;
constexpr int64_t kGrace = 100 * kMillisecond, kCancelGrace = 2 * kSecond;
constexpr int64_t kKillGrace = kSecond;       // after the caller has left
constexpr int64_t kFirstPause = kSecond / 10; // before the first restart; doubles
constexpr int64_t kLongestPause = 30 * kSecond;
constexpr int64_t kHealthy = 60 * kSecond; // a life this long forgives earlier deaths
constexpr size_t kLineLimit = 4096, kLinesPerSecond = 100;

UniqueFd high(UniqueFd fd) { // above the numbers that the child gets
    UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 10));
    if (!copy) throw Error::from_errno(errno, "start a plugin's process");
    return copy;
}

std::string ending(int status) {
    if (WIFSIGNALED(status))
        return fmt::format("was ended by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    return fmt::format("exited with status {}", WEXITSTATUS(status));
}

} // namespace

struct PluginProcess::Life {
    pid_t pid = -1;
    UniqueFd pidfd, err;
    wire::Channel services, start;
    bool replaying = false, up = false;
    int64_t start_by_ns = 0;
    std::string line;
    int64_t second = 0;
    size_t lines = 0;
};

void encode_request(wire::Encoder &out, const char *operation, int64_t deadline_ns, const Call *call,
                    std::vector<int> &fds) {
    out(std::string_view(operation));
    out(deadline_ns);
    const bool cancel = call && call->cancel_fd() >= 0;
    out(cancel);
    if (cancel) fds.push_back(call->cancel_fd());
    out(call && call->raw()->progress);
    out(call ? call->subject() : std::string_view());
    std::vector<std::pair<std::string, std::string>> labels;
    for (uint32_t i = 0; call && i < call->raw()->label_count; ++i)
        labels.emplace_back(call->raw()->labels[i].key, call->raw()->labels[i].value);
    out(labels);
}

PluginProcess::PluginProcess(ProcessSetup setup)
    : setup_(std::move(setup)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      random_(static_cast<unsigned>(Call::now_ns())) {
    if (!wake_) throw Error::from_errno(errno, "start a plugin's process");
    attendant_ = std::thread([this] { attend(); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return state_ != State::kStarting; });
    if (state_ == State::kEnded) {
        lock.unlock();
        attendant_.join();
        throw *first_error_;
    }
}

PluginProcess::~PluginProcess() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        idle_.clear();
        control_ = {}; // the child lets its driver end and exits
    }
    changed_.notify_all();
    wake();
    attendant_.join();
}

void PluginProcess::wake() noexcept {
    const uint64_t one = 1;
    if (::write(wake_.get(), &one, sizeof one) < 0) return; // it is awake already
}

void PluginProcess::set_replay(std::function<std::string()> replay) {
    const std::lock_guard lock(mutex_);
    replay_ = std::move(replay);
}

PluginProcess::Status PluginProcess::status() const {
    const std::lock_guard lock(mutex_);
    return {pid_, restarts_, state_ == State::kUp, state_ == State::kUp ? "" : reason_};
}

PluginProcess::Lease PluginProcess::acquire(const char *operation, int64_t deadline_ns) {
    std::unique_lock lock(mutex_);
    // A start that is under way or at hand is waited for.
    const auto worth = [&] {
        return state_ == State::kStarting ||
               (state_ == State::kResting && next_start_ns_ - Call::now_ns() < kSecond);
    };
    while (state_ != State::kUp && !stopping_ && worth()) {
        const int64_t left = deadline_ns ? deadline_ns - Call::now_ns() : kSecond;
        if (left <= 0) break;
        changed_.wait_for(lock, std::chrono::nanoseconds(std::min(left, kSecond)));
    }
    if (state_ != State::kUp) {
        const int64_t rest = std::max<int64_t>(next_start_ns_ - Call::now_ns(), 0);
        throw Error(ErrorClass::kUnavailable,
                    fmt::format("plugin {}: {} refused, because its process {}", setup_.record->plugin,
                                operation, reason_.empty() ? "does not run" : reason_),
                    fmt::format("it is started again in {} ms", rest / kMillisecond));
    }
    if (!idle_.empty()) {
        Lease lease{std::move(idle_.back()), life_};
        idle_.pop_back();
        return lease;
    }
    auto [ours, theirs] = wire::Channel::pair();
    try {
        control_.send(wire::Kind::kRequest, "", Call::now_ns() + kSecond, {theirs.get()});
    } catch (const Error &) { // it ends just now, or has so many threads that it takes no more
        const uint64_t life = life_;
        lock.unlock();
        throw ended(life, operation);
    }
    return {wire::Channel(std::move(ours)), life_};
}

void PluginProcess::give_back(Lease lease) {
    const std::lock_guard lock(mutex_);
    if (lease.life == life_ && state_ == State::kUp && !stopping_ && idle_.size() < 16)
        idle_.push_back(std::move(lease.channel));
}

void PluginProcess::give_up(Lease lease, const char *operation) {
    {
        const std::lock_guard lock(mutex_);
        if (lease.life != life_) return;
        doomed_.push_back({std::move(lease.channel), Call::now_ns() + kKillGrace, operation});
    }
    wake();
}

void PluginProcess::kill(uint64_t life, const std::string &why) noexcept {
    const std::lock_guard lock(mutex_);
    if (life != life_ || pid_ <= 0) return;
    if (kill_reason_.empty()) kill_reason_ = why;
    ::kill(-pid_, SIGKILL); // not reaped before the attendant has the mutex: the number is still its own
}

Error PluginProcess::ended(uint64_t life, const char *operation) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(2), [&] { return life_ != life || state_ != State::kUp; });
    return {ErrorClass::kUnavailable,
            fmt::format("plugin {}: {} failed, because its process {}", setup_.record->plugin, operation,
                        reason_.empty() ? "does not answer" : reason_),
            "it is started again; the engine's log has what it said"};
}

std::string PluginProcess::start_request() const {
    wire::Encoder out;
    std::vector<int> fds;
    encode_request(out, "start", Call::now_ns() + setup_.hosting.timeout_of("start"), nullptr, fds);
    for (const std::string *text : {&setup_.file, &setup_.pin, &setup_.start.root, &setup_.start.run,
                                    &setup_.start.libexec, &setup_.start.engine_id})
        out(*text);
    wire::encode(out, *setup_.start.config);
    return std::move(out.out);
}

void PluginProcess::attend() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    pthread_setname_np(pthread_self(), "plugin-attend");
    unsigned deaths = 0;
    for (bool first = true;; first = false) {
        const int64_t born = Call::now_ns();
        std::string reason;
        try {
            reason = live(first);
        } catch (const std::exception &e) {
            reason = std::string("could not be started: ") + e.what();
        }
        std::unique_lock lock(mutex_);
        pid_ = 0;
        idle_.clear();
        doomed_.clear();
        control_ = {};
        reason_ = kill_reason_.empty() ? reason : kill_reason_;
        kill_reason_.clear();
        const bool was_up = state_ == State::kUp;
        if (stopping_ || (first && !was_up)) {
            if (!first_error_)
                first_error_ = Error(ErrorClass::kUnavailable, fmt::format("start plugin {}: its process {}",
                                                                           setup_.record->plugin, reason_));
            state_ = State::kEnded;
            changed_.notify_all();
            return;
        }
        if (Call::now_ns() - born > kHealthy) deaths = 0;
        int64_t pause = std::min(kFirstPause << std::min(deaths++, 10u), kLongestPause);
        // Jitter: plugins that died of the same cause shall not come back at the same moment.
        pause = pause * std::uniform_int_distribution<int64_t>(75, 125)(random_) / 100;
        state_ = State::kResting;
        next_start_ns_ = Call::now_ns() + pause;
        log_warn("plugin {}: its process {}; next start in {} ms", setup_.record->plugin, reason_,
                 pause / kMillisecond);
        changed_.notify_all();
        changed_.wait_for(lock, std::chrono::nanoseconds(pause), [&] { return stopping_; });
        if (stopping_) {
            state_ = State::kEnded;
            return;
        }
        state_ = State::kStarting;
        ++restarts_;
    }
}

/// From spawn to wait; why it ended.
std::string PluginProcess::live(bool first) {
    Life life;
    int err[2];
    if (::pipe2(err, O_CLOEXEC) != 0) throw Error::from_errno(errno, "start a plugin's process");
    life.err.reset(err[0]);
    UniqueFd err_end = high(UniqueFd(err[1]));
    auto [control, control_end] = wire::Channel::pair();
    auto [services, services_end] = wire::Channel::pair();
    auto [start, start_end] = wire::Channel::pair();
    control_end = high(std::move(control_end));
    services_end = high(std::move(services_end));
    life.services = wire::Channel(std::move(services));
    life.start = wire::Channel(std::move(start));

    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, err_end.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, err_end.get(), 2);
    posix_spawn_file_actions_adddup2(&actions, control_end.get(), 3);
    posix_spawn_file_actions_adddup2(&actions, services_end.get(), 4);
    posix_spawn_file_actions_addclosefrom_np(&actions, 5);
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    std::string program = setup_.program, parent = std::to_string(::getpid()), name = setup_.record->table;
    char *argv[] = {program.data(), parent.data(), name.data(), nullptr};
    // The child asks to die with this thread, its parent: that is why the attendant spawns it.
    const int error = ::posix_spawn(&life.pid, program.c_str(), &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (error) throw Error::from_errno(error, "run " + setup_.program);
    err_end.reset();
    control_end.reset();
    services_end.reset();
    life.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, life.pid, 0)));
    life.start_by_ns = Call::now_ns() + setup_.hosting.timeout_of("start") + kGrace;
    {
        const std::lock_guard lock(mutex_);
        ++life_;
        pid_ = life.pid;
        control_ = wire::Channel(std::move(control));
        if (stopping_) control_ = {};
    }
    int64_t stop_by_ns = 0;
    try {
        {
            const std::lock_guard lock(mutex_);
            if (control_) control_.send(wire::Kind::kRequest, "", life.start_by_ns, {start_end.get()});
        }
        start_end.reset();
        life.start.send(wire::Kind::kRequest, start_request(), life.start_by_ns);
    } catch (const Error &) { // it has ended; the loop below finds out how
    }
    for (bool alive = true; alive;) {
        std::vector<pollfd> p{{life.pidfd.get(), POLLIN, 0},
                              {wake_.get(), POLLIN, 0},
                              {life.err.get(), POLLIN, 0},
                              {life.services.fd(), POLLIN, 0},
                              {life.start.fd(), POLLIN, 0}};
        int64_t next = life.up ? INT64_MAX : life.start_by_ns;
        {
            const std::lock_guard lock(mutex_);
            for (const Doomed &d : doomed_) {
                p.push_back({d.channel.fd(), POLLIN, 0});
                next = std::min(next, d.kill_ns);
            }
            if (stopping_) {
                if (!stop_by_ns)
                    stop_by_ns = Call::now_ns() + std::min(setup_.record->end_limit_ns.load(),
                                                           setup_.hosting.timeout_of("start"));
                next = std::min(next, stop_by_ns);
            }
        }
        const int64_t left =
            next == INT64_MAX ? -1 : std::max<int64_t>((next - Call::now_ns()) / kMillisecond + 1, 0);
        if (::poll(p.data(), p.size(), static_cast<int>(std::min<int64_t>(left, 1 << 30))) < 0) continue;
        uint64_t drop = 0;
        if (p[1].revents && ::read(wake_.get(), &drop, sizeof drop) < 0) continue;
        if (p[2].revents) show_stderr(life);
        try {
            if (p[3].revents) serve(life.services);
            if (p[4].revents && life.start.fd() >= 0 &&
                !come_up(life, life.start.receive(Call::now_ns() + kSecond), first))
                kill(life_, "was ended, because its driver could not be started");
        } catch (const Error &e) {
            if (e.error_class() == ErrorClass::kUnavailable) { // closed: it is ending
                if (p[3].revents & (POLLHUP | POLLERR)) life.services = {};
                if (p[4].revents & (POLLHUP | POLLERR)) life.start = {};
            } else {
                kill(life_, fmt::format("was killed, because it sent nonsense ({})", e.message()));
            }
        }
        const int64_t now = Call::now_ns();
        {
            std::string why;
            std::unique_lock lock(mutex_);
            for (size_t i = doomed_.size(); i-- > 0;) {
                const bool moved =
                    5 + i < p.size() && p[5 + i].fd == doomed_[i].channel.fd() && p[5 + i].revents;
                if (now >= doomed_[i].kill_ns)
                    why = fmt::format("was killed, because {} hung in it", doomed_[i].operation);
                else if (!moved)
                    continue;
                else { // late, but it answers: the rest of its answer has no reader
                    try {
                        const wire::Frame f = doomed_[i].channel.receive(now + kGrace);
                        if (f.kind == wire::Kind::kItem)
                            doomed_[i].channel.send(wire::Kind::kStop, "", now + kGrace);
                        if (f.kind != wire::Kind::kResult && f.kind != wire::Kind::kFailure) continue;
                    } catch (const Error &) {
                    }
                }
                doomed_.erase(doomed_.begin() + static_cast<ptrdiff_t>(i));
            }
            lock.unlock();
            if (!why.empty()) kill(life_, why);
        }
        if (!life.up && now >= life.start_by_ns) {
            if (first) {
                const std::lock_guard lock(mutex_);
                first_error_ = setup_.record->over("start", setup_.hosting.timeout_of("start"), false);
            }
            kill(life_, "was killed, because its start hung");
        }
        if (stop_by_ns && now >= stop_by_ns) kill(life_, "was killed, because its end hung");
        alive = !p[0].revents;
    }
    int status = 0;
    {
        const std::lock_guard lock(mutex_); // see kill()
        ::kill(-life.pid, SIGKILL);         // what it started and left in its group
        while (::waitpid(life.pid, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = 0;
    }
    show_stderr(life);
    return ending(status);
}

/// False when the driver cannot be started. After the answer to a restart comes the replay, then life.
bool PluginProcess::come_up(Life &life, const wire::Frame &frame, bool first) {
    if (frame.kind == wire::Kind::kLog || frame.kind == wire::Kind::kProgress) {
        if (frame.kind == wire::Kind::kLog) {
            wire::Decoder in(frame.body);
            const auto level = static_cast<LogLevel>(std::clamp(in.get<int32_t>(), 0, 3));
            log_line(level, setup_.record->plugin + ": " + in.get<std::string>());
        }
        return true;
    }
    if (frame.kind == wire::Kind::kFailure) {
        wire::Decoder in(frame.body);
        const Error e = wire::decode_error(in);
        if (life.replaying) { // a network that could not be restored is the driver's loss, not its end
            log_error("plugin {}: restore after restart: {}", setup_.record->plugin, e.message());
        } else {
            const std::lock_guard lock(mutex_);
            if (first)
                first_error_ = e;
            else
                kill_reason_ = "could not start its driver again: " + e.message();
            return false;
        }
    } else if (frame.kind != wire::Kind::kResult) {
        throw wire::Decoder::torn();
    } else if (!life.replaying) {
        wire::Decoder in(frame.body);
        has_changes_ = in.get<bool>();
    }
    std::function<std::string()> replay;
    {
        const std::lock_guard lock(mutex_);
        if (!first && !life.replaying) replay = replay_;
    }
    if (const std::string request = replay ? replay() : ""; !request.empty()) {
        life.replaying = true;
        life.start.send(wire::Kind::kRequest, request, Call::now_ns() + kSecond);
        return true;
    }
    life.up = true;
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(life.start));
    life.start = {};
    state_ = State::kUp;
    reason_.clear();
    if (!first) log_info("plugin {}: its process runs again (pid {})", setup_.record->plugin, life.pid);
    changed_.notify_all();
    return true;
}

/// One request of the plugin to its host.
void PluginProcess::serve(wire::Channel &channel) {
    const int64_t by = Call::now_ns() + kSecond;
    const wire::Frame frame = channel.receive(by);
    const gantry_host &host = *setup_.services->raw();
    wire::Decoder in(frame.body);
    wire::Encoder out;
    UniqueFd fd; // goes with the reply
    const CallScope scope;
    detail::SubCall sub(scope.raw());
    try {
        switch (frame.kind) {
        case wire::Kind::kLog: {
            const auto level = in.get<int32_t>();
            host.log(host.ctx, level, in.get<std::string>().c_str());
            return;
        }
        case wire::Kind::kCount:
        case wire::Kind::kGauge: {
            const auto name = in.get<std::string>();
            (frame.kind == wire::Kind::kCount ? host.count : host.gauge)(host.ctx, name.c_str(),
                                                                         in.get<int64_t>());
            return;
        }
        case wire::Kind::kKvGet: {
            gantry_byte_sink sink{};
            sink.struct_size = sizeof sink;
            sink.ctx = &out;
            sink.write = [](void *ctx, const void *data, size_t size) -> gantry_status {
                (*static_cast<wire::Encoder *>(ctx))(std::string_view(static_cast<const char *>(data), size));
                return GANTRY_OK;
            };
            sub.check(host.kv_get(host.ctx, sub.raw(), in.get<std::string>().c_str(), &sink),
                      "read plugin key");
            break;
        }
        case wire::Kind::kKvList: {
            std::vector<std::string> keys;
            gantry_string_sink sink{};
            sink.struct_size = sizeof sink;
            sink.ctx = &keys;
            sink.add = [](void *ctx, const char *key) -> gantry_status {
                static_cast<std::vector<std::string> *>(ctx)->emplace_back(key);
                return GANTRY_OK;
            };
            sub.check(host.kv_list(host.ctx, sub.raw(), in.get<std::string>().c_str(), &sink),
                      "list plugin keys");
            out(keys);
            break;
        }
        case wire::Kind::kKvApply: {
            const auto count = in.get<uint32_t>();
            if (count > 4096) throw wire::Decoder::torn();
            std::deque<std::string> keys;
            std::vector<gantry_kv_write> writes(count);
            for (gantry_kv_write &w : writes) {
                w.key = keys.emplace_back(in.get<std::string>()).c_str();
                if (in.get<bool>()) {
                    const std::string_view value = in.view(wire::kFrameLimit);
                    w.value = value.data();
                    w.value_size = value.size();
                }
                const auto expect = in.get<uint32_t>(); // 0 nothing, 1 absent, 2 equal
                if (expect == 0) continue;
                const std::string_view value = in.view(wire::kFrameLimit);
                w.expect = value.data();
                w.expect_size = expect == 1 ? SIZE_MAX : value.size();
            }
            sub.check(host.kv_apply(host.ctx, sub.raw(), writes.data(), count), "write plugin keys");
            break;
        }
        case wire::Kind::kBlobOpen: {
            int32_t opened = -1;
            uint64_t size = 0;
            const gantry_status status =
                host.blob_open(host.ctx, sub.raw(), in.get<std::string>().c_str(), &opened, &size);
            fd.reset(opened);
            sub.check(status, "open blob");
            out(size);
            break;
        }
        default: throw wire::Decoder::torn();
        }
    } catch (const Error &e) {
        wire::Encoder failure;
        wire::encode(failure, e);
        channel.send(wire::Kind::kFailure, failure.out, by);
        return;
    }
    channel.send(wire::Kind::kReply, out.out, by, fd ? std::vector{fd.get()} : std::vector<int>{});
}

void PluginProcess::show_stderr(Life &life) {
    char buffer[4096];
    for (int i = 0; i < 16; ++i) {
        pollfd p{life.err.get(), POLLIN, 0};
        if (life.err.get() < 0 || ::poll(&p, 1, 0) <= 0) return;
        const ssize_t n = ::read(life.err.get(), buffer, sizeof buffer);
        if (n <= 0) life.err.reset();
        for (ssize_t c = 0; c < n || (n <= 0 && !life.line.empty()); ++c) {
            if (n > 0 && buffer[c] != '\n' && life.line.size() < kLineLimit) {
                life.line += buffer[c];
                continue;
            }
            const int64_t second = Call::now_ns() / kSecond;
            if (second != life.second) {
                if (life.lines > kLinesPerSecond)
                    log_warn("plugin {}: {} lines of its stderr dropped", setup_.record->plugin,
                             life.lines - kLinesPerSecond);
                life.second = second;
                life.lines = 0;
            }
            if (++life.lines <= kLinesPerSecond)
                log_info("{} (stderr): {}", setup_.record->plugin, life.line);
            life.line.clear();
        }
        if (n <= 0) return;
    }
}

Conversation::Conversation(PluginProcess &process, const Call &outer, const CallLimit &limit)
    : process_(process), outer_(outer), limit_(limit), started_ns_(Call::now_ns()),
      deadline_ns_(outer.deadline_ns()), moved_ns_(started_ns_) {
    if (!limit.pause_only && limit.timeout_ns > 0) {
        const int64_t own = started_ns_ + limit.timeout_ns;
        deadline_ns_ = deadline_ns_ ? std::min(deadline_ns_, own) : own;
    }
}

wire::Frame Conversation::next() {
    for (;;) {
        int64_t end = deadline_ns_ ? deadline_ns_ + kGrace : INT64_MAX;
        bool silent = false;
        if (limit_.pause_only && limit_.timeout_ns > 0 && moved_ns_ + limit_.timeout_ns < end) {
            end = moved_ns_ + limit_.timeout_ns;
            silent = true;
        }
        if (cancelled_ns_) end = std::min(end, cancelled_ns_ + kCancelGrace);
        if (caught_ns_) end = std::min(end, caught_ns_ + kCancelGrace);
        const int64_t left = end - Call::now_ns();
        if (left <= 0) {
            process_.give_up(std::move(lease_), limit_.operation);
            if (cancelled_ns_ && end == cancelled_ns_ + kCancelGrace)
                throw Error(ErrorClass::kCancelled,
                            fmt::format("plugin {}: {} was cancelled, did not react and was given up",
                                        process_.setup().record->plugin, limit_.operation));
            throw process_.setup().record->over(
                limit_.operation, silent ? limit_.timeout_ns : deadline_ns_ - started_ns_, silent);
        }
        pollfd p[] = {{lease_.channel.fd(), POLLIN, 0}, {cancelled_ns_ ? -1 : outer_.cancel_fd(), POLLIN, 0}};
        if (::poll(p, 2, static_cast<int>(std::min<int64_t>(left / kMillisecond + 1, 1 << 30))) <= 0)
            continue;
        if (p[1].revents) cancelled_ns_ = Call::now_ns();
        if (p[0].revents) return lease_.channel.receive(Call::now_ns() + kSecond);
    }
}

void Conversation::nonsense(const Error &why) {
    process_.kill(lease_.life,
                  fmt::format("was killed, because its answer to {} was nonsense", limit_.operation));
    throw Error(
        ErrorClass::kInternal,
        fmt::format("plugin {}: {}: {}", process_.setup().record->plugin, limit_.operation, why.message()),
        "this is a bug of the plugin; report it to its author");
}

std::string Conversation::run(const std::string &request, const std::vector<int> &fds,
                              const std::function<std::string(std::string_view)> &item) {
    lease_ = process_.acquire(limit_.operation, deadline_ns_);
    std::exception_ptr caught;
    try {
        lease_.channel.send(wire::Kind::kRequest, request, Call::now_ns() + kSecond, fds);
        for (;;) {
            wire::Frame frame = next();
            if (frame.kind != wire::Kind::kLog) moved_ns_ = Call::now_ns();
            wire::Decoder in(frame.body);
            switch (frame.kind) {
            case wire::Kind::kLog: {
                const auto level = in.get<int32_t>();
                outer_.log(level, in.get<std::string>().c_str());
                continue;
            }
            case wire::Kind::kProgress: {
                const auto what = in.get<std::string>();
                const auto done = in.get<uint64_t>();
                outer_.progress(what.c_str(), done, in.get<uint64_t>());
                continue;
            }
            case wire::Kind::kItem: {
                std::string reply;
                if (!caught) {
                    try {
                        reply = item(frame.body);
                    } catch (...) {
                        caught = std::current_exception();
                        caught_ns_ = Call::now_ns();
                    }
                }
                lease_.channel.send(caught ? wire::Kind::kStop : wire::Kind::kReply, reply,
                                    Call::now_ns() + kSecond);
                continue;
            }
            case wire::Kind::kFailure: {
                const Error e = wire::decode_error(in);
                const uint64_t life = lease_.life;
                process_.give_back(std::move(lease_));
                lease_.life = life;
                if (caught) break;
                throw e;
            }
            case wire::Kind::kResult: {
                const uint64_t life = lease_.life;
                process_.give_back(std::move(lease_));
                lease_.life = life;
                if (caught) break;
                return std::move(frame.body);
            }
            default: throw wire::Decoder::torn();
            }
            break;
        }
    } catch (const Error &e) {
        if (caught) std::rethrow_exception(caught);
        // The channel is still held: what failed is the channel and not the operation.
        if (!lease_.channel) throw;
        if (e.error_class() == ErrorClass::kInternal) nonsense(e);
        if (e.error_class() == ErrorClass::kDeadline) { // it took no request, or stopped amid a frame
            process_.give_up(std::move(lease_), limit_.operation);
            throw process_.setup().record->over(limit_.operation, Call::now_ns() - started_ns_, true);
        }
        if (e.error_class() == ErrorClass::kUnavailable) throw process_.ended(lease_.life, limit_.operation);
        throw;
    }
    std::rethrow_exception(caught);
}

} // namespace gantry

// isolation = "process": the very same .so in a child (gantry-plugin-host), behind the same driver classes.
// A call takes a channel, a socket of its own on which the child has a thread waiting, so nothing is
// multiplexed, descriptors and cancellation travel with the request, and the end of the child is the end
// of every stream. The caller's own thread does the talking; one attendant thread for each plugin starts
// the child, serves what the plugin asks of its host, reads its stderr, ends it when it hangs, and starts
// it again with growing pauses.
#pragma once

#include "core/plugin/load.h"
#include "core/plugin/sane.h"
#include "core/plugin/wire.h"

#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

namespace gantry {

struct ProcessSetup {
    std::string program; // path of gantry-plugin-host
    std::string file, pin;
    DriverStart start;
    DriverHosting hosting;
    std::shared_ptr<PluginServices> services;
    std::shared_ptr<CallRecord> record;
};

class PluginProcess {
  public:
    /// Returns when the driver works; throws what its init or create said.
    explicit PluginProcess(ProcessSetup setup);
    /// Lets the driver end, kills it when it does not.
    ~PluginProcess();
    PluginProcess(const PluginProcess &) = delete;
    PluginProcess &operator=(const PluginProcess &) = delete;

    struct Lease {
        wire::Channel channel;
        uint64_t life = 0;
    };
    /// kUnavailable while the process rests between two starts.
    Lease acquire(const char *operation, int64_t deadline_ns);
    void give_back(Lease lease);
    /// The caller has left: the process is killed unless this call ends within a second.
    void give_up(Lease lease, const char *operation);
    /// It answers nonsense.
    void kill(uint64_t life, const std::string &why) noexcept;
    /// Why a call ended without an answer.
    Error ended(uint64_t life, const char *operation);

    struct Status {
        int pid = 0;
        uint32_t restarts = 0;
        bool up = false;
        std::string reason; // why it is not up
    };
    Status status() const;
    bool has_changes() const noexcept { return has_changes_; }
    const ProcessSetup &setup() const noexcept { return setup_; }
    /// A request that every later start is followed by, as encode_request makes it; "" for none.
    void set_replay(std::function<std::string()> replay);

  private:
    enum class State { kStarting, kUp, kResting, kEnded };
    struct Doomed {
        wire::Channel channel;
        int64_t kill_ns;
        std::string operation;
    };
    struct Life;

    void attend() noexcept;
    std::string live(bool first);
    bool come_up(Life &life, const wire::Frame &frame, bool first);
    void serve(wire::Channel &services);
    void show_stderr(Life &life);
    std::string start_request() const;
    void wake() noexcept;

    const ProcessSetup setup_;
    std::atomic<bool> has_changes_{false};
    UniqueFd wake_;
    mutable std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    State state_ = State::kStarting;
    bool stopping_ = false;
    uint64_t life_ = 0;
    int pid_ = 0;
    uint32_t restarts_ = 0;
    int64_t next_start_ns_ = 0;
    std::string reason_, kill_reason_;
    std::optional<Error> first_error_;
    wire::Channel control_;
    std::vector<wire::Channel> idle_;
    std::vector<Doomed> doomed_;
    std::function<std::string()> replay_;
    std::minstd_rand random_;
    std::thread attendant_; // last: it uses the others
};

/// The head of a request.
void encode_request(wire::Encoder &out, const char *operation, int64_t deadline_ns, const Call *call,
                    std::vector<int> &fds);

namespace wire {

/// Arguments of a call at the engine's end: what is packed into the request, and what the child may ask
/// of it later. take() answers an item; false when the argument takes none.
template <typename T> void pack(Encoder &out, std::vector<int> &, const T &value) { out(value); }
template <typename T> bool take(const T &, Decoder &, Encoder &) { return false; }

inline void pack(Encoder &out, std::vector<int> &fds, const EndpointSpec &spec) {
    out(spec);
    out(spec.netns_fd >= 0);
    if (spec.netns_fd >= 0) fds.push_back(spec.netns_fd);
}
template <typename R, typename... A>
void pack(Encoder &, std::vector<int> &, const std::function<R(A...)> &) {}
inline void pack(Encoder &out, std::vector<int> &, std::string *const &body) { out(body != nullptr); }

inline bool take(const std::function<void(const Change &)> &each, Decoder &in, Encoder &) {
    for (const Change &change : in.get<std::vector<Change>>()) {
        sane(change);
        each(change);
    }
    return true;
}
inline bool take(const BlobSink &sink, Decoder &in, Encoder &) {
    const auto endpoint = in.get<std::string>();
    const auto at = in.get<uint64_t>();
    const std::string_view data = in.view(kBytesLimit);
    sink(endpoint, at, data.data(), data.size());
    return true;
}
inline bool take(const BlobSource &source, Decoder &in, Encoder &out) {
    const auto at = in.get<uint64_t>();
    std::string buffer(std::min<uint64_t>(in.get<uint64_t>(), kBytesLimit), 0);
    const size_t got = source(at, buffer.data(), buffer.size());
    out(std::string_view(buffer).substr(0, got));
    return true;
}
inline bool take(std::string *const &body, Decoder &in, Encoder &) {
    if (!body) return false;
    const std::string_view data = in.view(kBytesLimit);
    if (data.size() > (4u << 20) - body->size())
        throw Error(ErrorClass::kInvalidArgument, "read manifest: larger than 4 MiB");
    body->append(data);
    return true;
}

} // namespace wire

/// One conversation without its types: waits for frames, answers items, ends at the limit.
class Conversation {
  public:
    Conversation(PluginProcess &process, const Call &outer, const CallLimit &limit);
    /// The body of kResult. `item` answers kItem.
    std::string run(const std::string &request, const std::vector<int> &fds,
                    const std::function<std::string(std::string_view)> &item);
    int64_t deadline_ns() const noexcept { return deadline_ns_; }
    /// After a result that cannot be read.
    [[noreturn]] void nonsense(const Error &why);

  private:
    wire::Frame next();

    PluginProcess &process_;
    const Call &outer_;
    const CallLimit limit_;
    int64_t started_ns_, deadline_ns_, moved_ns_, cancelled_ns_ = 0, caught_ns_ = 0;
    PluginProcess::Lease lease_;
};

/// Transport of forward.h to a child process.
template <typename Driver> class ProcessCalls {
  public:
    explicit ProcessCalls(std::shared_ptr<PluginProcess> process) : process_(std::move(process)) {}

    bool has_changes() const { return process_->has_changes(); }

    template <auto method, typename... A>
    auto call(const Call &outer, const char *operation, bool pause_only, A &&...args) const {
        using R = decltype((std::declval<Driver &>().*method)(outer, args...));
        Conversation talk(*process_, outer,
                          {operation, process_->setup().hosting.timeout_of(operation), pause_only});
        wire::Encoder request;
        std::vector<int> fds;
        encode_request(request, operation, talk.deadline_ns(), &outer, fds);
        (wire::pack(request, fds, args), ...);
        const std::string result = talk.run(request.out, fds, [&](std::string_view body) {
            wire::Encoder reply;
            wire::Decoder in(body);
            if (!(wire::take(args, in, reply) || ...)) throw wire::Decoder::torn();
            return reply.out;
        });
        if constexpr (!std::is_void_v<R>) {
            try {
                wire::Decoder in(result);
                R value{};
                if constexpr (std::is_same_v<R, std::string>)
                    value = in.view(wire::kFrameLimit); // a list of referrers is up to 4 MiB
                else
                    value = in.template get<R>();
                in.end();
                wire::sane(value);
                return value;
            } catch (const Error &e) {
                talk.nonsense(e);
            }
        }
    }

  private:
    std::shared_ptr<PluginProcess> process_;
};

/// A network driver's memory outlives its process: what the core has settled is told to each new one.
std::shared_ptr<NetworkDriver> make_remembering(std::shared_ptr<NetworkDriver> driver,
                                                const std::shared_ptr<PluginProcess> &process);

} // namespace gantry

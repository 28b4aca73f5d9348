#include "peers.h"

#include <algorithm>
#include <chrono>
#include <poll.h>
#include <random>
#include <thread>

namespace gantry::peer {
namespace {

constexpr int64_t kMillisecond = 1'000'000, kSecond = 1000 * kMillisecond;
constexpr size_t kAtOnce = 8;                // connections that are tried
constexpr int64_t kFirstRest = 10 * kSecond; // doubles with each failure in a row
constexpr int64_t kLongestRest = 300 * kSecond;
constexpr int64_t kHandshake = 2 * kSecond;
constexpr auto kLookUpAgain = std::chrono::seconds(60);

size_t random_below(size_t limit) {
    static thread_local std::minstd_rand random(std::random_device{}());
    return std::uniform_int_distribution<size_t>(0, limit - 1)(random);
}

} // namespace

struct Peers::Names {
    std::mutex mutex; // guards what follows
    std::condition_variable changed;
    bool ended = false;
    std::vector<HostPort> hosts;
    std::vector<std::vector<Address>> found;

    static void look_up(const std::shared_ptr<Names> &names, const std::vector<size_t> &which) {
        for (;;) {
            for (const size_t i : which) {
                HostPort host;
                {
                    const std::lock_guard lock(names->mutex);
                    if (names->ended) return;
                    host = names->hosts[i];
                }
                auto addresses = addresses_of(host, false); // may take as long as it likes
                const std::lock_guard lock(names->mutex);
                if (!addresses.empty()) names->found[i] = std::move(addresses);
            }
            std::unique_lock lock(names->mutex);
            if (names->changed.wait_for(lock, kLookUpAgain, [&] { return names->ended; })) return;
        }
    }
};

Peers::Peers(Settings settings, const TlsKey &key)
    : settings_(std::move(settings)), key_(key), names_(std::make_shared<Names>()) {
    std::vector<size_t> by_name;
    for (const std::string &peer : settings_.peers) {
        const HostPort where = parse_host_port(peer, "peers");
        if (peer == settings_.self || std::find(peers_.begin(), peers_.end(), peer) != peers_.end()) continue;
        auto numeric = addresses_of(where, true);
        if (numeric.empty()) by_name.push_back(peers_.size());
        peers_.push_back(peer);
        names_->hosts.push_back(where);
        names_->found.push_back(std::move(numeric));
    }
    health_.resize(peers_.size());
    // It ends by itself, at the latest with the process: nobody waits for a name server.
    if (!by_name.empty()) std::thread([names = names_, by_name] { Names::look_up(names, by_name); }).detach();
}

Peers::~Peers() {
    const std::lock_guard lock(names_->mutex);
    names_->ended = true;
    names_->changed.notify_all();
}

std::vector<Address> Peers::addresses(size_t peer) const {
    const std::lock_guard lock(names_->mutex);
    return names_->found[peer];
}

Health Peers::health(size_t peer) const {
    const std::lock_guard lock(mutex_);
    return health_[peer];
}

void Peers::answered(size_t peer, int64_t latency_ns) {
    const std::lock_guard lock(mutex_);
    health_[peer].known = true;
    health_[peer].latency_ns = latency_ns;
}

void Peers::succeeded(size_t peer, uint64_t bytes, int64_t took_ns) {
    const std::lock_guard lock(mutex_);
    Health &h = health_[peer];
    h.known = true;
    h.resting_until_ns = 0;
    h.in_a_row = 0;
    ++h.successes;
    h.bytes += bytes;
    if (bytes >= 64 << 10 && took_ns > 0)
        h.bytes_per_second =
            static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(took_ns));
}

void Peers::failed(size_t peer, const std::string &why) {
    const std::lock_guard lock(mutex_);
    Health &h = health_[peer];
    ++h.failures;
    h.reason = why;
    const int64_t rest = std::min(kFirstRest << std::min(h.in_a_row++, 10u), kLongestRest);
    // Jitter: a whole site that lost one peer shall not come back to it at the same moment.
    h.resting_until_ns = Call::now_ns() + rest / 100 * static_cast<int64_t>(75 + random_below(50));
}

Race::Race(Peers &peers, const Call &call, const std::vector<std::string> &avoid, bool all)
    : peers_(peers), call_(call) {
    const int64_t now = Call::now_ns();
    for (size_t i = 0; i < peers.count(); ++i)
        if ((all || peers.health(i).resting_until_ns <= now) &&
            std::find(avoid.begin(), avoid.end(), peers.url(i)) == avoid.end())
            waiting_.push_back(i);
    for (size_t i = waiting_.size(); i > 1; --i) // spreads the load
        std::swap(waiting_[i - 1], waiting_[random_below(i)]);
}

void Race::lost(size_t peer, const std::string &why) {
    peers_.failed(peer, why);
    if (reasons_.size() < 2048) reasons_ += (reasons_.empty() ? "" : "; ") + peers_.name(peer) + ": " + why;
}

void Race::begin() {
    while (running_.size() < kAtOnce && !waiting_.empty()) {
        const size_t peer = waiting_.back();
        waiting_.pop_back();
        ++tried_;
        const auto addresses = peers_.addresses(peer);
        if (addresses.empty()) {
            lost(peer, "its name has no address yet");
            continue;
        }
        const int64_t now = Call::now_ns();
        try {
            running_.push_back({peer, begin_connect(addresses[random_below(addresses.size())]), now,
                                now + peers_.settings().connect_timeout_ns});
        } catch (const Error &error) {
            lost(peer, error.message());
        }
    }
}

std::optional<Peers::Connection> Race::next() {
    constexpr const char *kDoing = "connect to peers";
    for (;;) {
        call_.check(kDoing);
        begin();
        if (running_.empty()) return std::nullopt;
        int64_t until = INT64_MAX;
        std::vector<pollfd> p;
        for (const Attempt &a : running_) {
            p.push_back({a.socket.get(), POLLOUT, 0});
            until = std::min(until, a.until_ns);
        }
        p.push_back({call_.cancel_fd(), POLLIN, 0});
        if (call_.deadline_ns()) until = std::min(until, call_.deadline_ns());
        const int64_t left = std::max<int64_t>(until - Call::now_ns(), 0);
        if (::poll(p.data(), p.size(), static_cast<int>(left / kMillisecond + 1)) < 0 && errno != EINTR)
            throw Error::from_errno(errno, kDoing);
        call_.check(kDoing);
        const int64_t now = Call::now_ns();
        for (size_t i = running_.size(); i-- > 0;) {
            if (!p[i].revents && now < running_[i].until_ns) continue;
            Attempt attempt = std::move(running_[i]);
            running_.erase(running_.begin() + static_cast<ptrdiff_t>(i));
            int error = ETIMEDOUT;
            socklen_t size = sizeof error;
            if (p[i].revents && ::getsockopt(attempt.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0)
                error = errno;
            if (error != 0) {
                lost(attempt.peer, Error::from_errno(error, "connect").message());
                continue;
            }
            int64_t end = now + kHandshake;
            if (call_.deadline_ns()) end = std::min(end, call_.deadline_ns());
            try {
                TlsStream stream(peers_.key_, std::move(attempt.socket), TlsStream::Role::kClient,
                                 {end, call_.cancel_fd()});
                peers_.answered(attempt.peer, Call::now_ns() - attempt.begun_ns);
                return Peers::Connection{attempt.peer, Talk(std::move(stream))};
            } catch (const Error &failure) {
                call_.check(kDoing);
                lost(attempt.peer, failure.message() + (failure.error_class() == ErrorClass::kPermissionDenied
                                                            ? " (has it another registry.peer.secret_file?)"
                                                            : ""));
            }
            break; // time has passed, and p is of before
        }
    }
}

} // namespace gantry::peer

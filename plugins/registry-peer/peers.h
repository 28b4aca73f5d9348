// The half that takes: who the peers are, how they have been, and the race for a connection to one of them.
#pragma once

#include "address.h"
#include "protocol.h"

#include <gantry/call.hpp>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace gantry::peer {

/// How a peer has been.
struct Health {
    bool known = false; // has answered since the start
    int64_t resting_until_ns = 0;
    int64_t latency_ns = -1; // of the last connection, handshake included
    uint64_t bytes = 0, bytes_per_second = 0;
    uint32_t failures = 0, successes = 0, in_a_row = 0; // failures since the last success
    std::string reason;                                 // of the last failure
};

/// The configured peers. Thread-safe. Names are looked up by a thread of their own, which no call waits for:
/// a name server that hangs must cost a pull nothing.
class Peers {
  public:
    struct Settings {
        std::vector<std::string> peers;
        std::string self; // the own address, which is left out
        int64_t connect_timeout_ns = 0, stall_timeout_ns = 0;
    };
    Peers(Settings settings, const TlsKey &key);
    ~Peers();
    Peers(const Peers &) = delete;
    Peers &operator=(const Peers &) = delete;

    size_t count() const noexcept { return peers_.size(); }
    const std::string &name(size_t peer) const { return peers_[peer]; }
    std::string url(size_t peer) const { return "peer://" + peers_[peer]; }
    Health health(size_t peer) const;
    const Settings &settings() const noexcept { return settings_; }

    void succeeded(size_t peer, uint64_t bytes, int64_t took_ns);
    /// It rests for a while, longer each time.
    void failed(size_t peer, const std::string &why);

    struct Connection {
        size_t peer;
        Talk talk;
    };

  private:
    friend class Race;
    struct Names; // shared with the thread that looks up
    std::vector<Address> addresses(size_t peer) const;
    void answered(size_t peer, int64_t latency_ns);

    const Settings settings_;
    const TlsKey &key_;
    std::vector<std::string> peers_;
    std::shared_ptr<Names> names_;
    mutable std::mutex mutex_;
    std::vector<Health> health_;
};

/// Connections to peers, whoever is reached first: several are tried at once, so those that are dead cost no
/// time while others live, and a failure makes its peer rest. Each peer is given at most once.
class Race {
  public:
    /// `all`: also those that rest. `avoid`: URLs of peers that are left out.
    Race(Peers &peers, const Call &call, const std::vector<std::string> &avoid, bool all = false);
    /// The next that shook hands; nullopt when there is none left. Throws when the call ends.
    std::optional<Peers::Connection> next();
    size_t tried() const noexcept { return tried_; }
    /// Why the others did not answer, for a message; "" when nobody failed.
    const std::string &reasons() const noexcept { return reasons_; }

  private:
    struct Attempt {
        size_t peer;
        UniqueFd socket;
        int64_t begun_ns, until_ns;
    };
    void begin();
    void lost(size_t peer, const std::string &why);

    Peers &peers_;
    const Call &call_;
    std::vector<size_t> waiting_; // in reverse order
    std::vector<Attempt> running_;
    size_t tried_ = 0;
    std::string reasons_;
};

} // namespace gantry::peer

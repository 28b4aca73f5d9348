// The half that gives: a thread that listens and one for each connection, up to a bound; whoever comes when
// all are taken is turned away at once. Every wait of a connection has an end, and ~Server ends all of them.
#pragma once

#include "protocol.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace gantry::peer {

/// A blob of this engine to read, with its size; throws kNotFound. Thread-safe.
using OpenBlob = std::function<UniqueFd(const std::string &digest, uint64_t &size)>;
/// (level, message), and (name, how many more).
using LogLine = std::function<void(int32_t, const std::string &)>;
using Count = std::function<void(const char *, int64_t)>;

class Server {
  public:
    struct Settings {
        std::string listen;
        uint32_t max_connections = 32;
        uint64_t bandwidth = 0; // bytes per second to all together; 0: no limit
        int64_t handshake_ns = 3'000'000'000;
        int64_t idle_ns = 10'000'000'000;  // between two questions
        int64_t stall_ns = 10'000'000'000; // of a peer that does not take what it asked for
    };
    /// Listens, or throws. `key` outlives the server.
    Server(Settings settings, const TlsKey &key, OpenBlob open, LogLine log, Count count);
    ~Server();
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;

    /// Where it listens, with the port that the kernel chose for port 0.
    std::string address() const;

  private:
    void listen();
    void serve(UniqueFd socket, const std::string &from);
    void talk(Talk &talk);
    void give(Talk &talk, const Question &question);
    void pace(uint64_t bytes);
    Patience patience(int64_t ns) const;

    const Settings settings_;
    const TlsKey &key_;
    const OpenBlob open_;
    const LogLine log_;
    const Count count_;
    UniqueFd socket_, stop_;
    std::mutex mutex_; // guards what follows
    std::condition_variable changed_;
    uint32_t connections_ = 0;
    int64_t next_byte_ns_ = 0; // when the next byte may go
    int64_t warned_ns_ = 0;    // about a stranger
    std::thread listener_;     // last: it uses the others
};

} // namespace gantry::peer

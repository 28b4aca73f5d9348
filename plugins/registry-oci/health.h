// What is remembered of endpoints: a circuit breaker, latency, throughput. Kept over restarts.
//
// A failure makes an endpoint rest, twice as long each time up to a limit, with jitter so that many
// engines do not return at once; one success ends it. Resting only moves an endpoint to the end: a wrong
// guess never makes a pull impossible. What an endpoint asked for itself (Retry-After) is another matter:
// it is not asked before that.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace gantry::oci {

struct HealthRecord {
    uint32_t successes = 0, failures = 0;
    uint32_t in_a_row = 0;     // failures since the last success
    int64_t resting_until = 0; // all times: ns since 1970
    int64_t not_before = 0;    // Retry-After
    int64_t last_failure = 0;
    int64_t latency_ns = -1;       // moving average to the first byte of an answer; -1 unknown
    uint64_t bytes_per_second = 0; // moving average of one transfer; 0 unknown
    uint64_t bytes_served = 0;
    int64_t measured = 0;   // last measurement, or the last attempt at one
    bool no_ranges = false; // answered 200 to a range
    uint32_t in_flight = 0; // transfers now; not kept
    std::string reason;     // of the last failure
};

enum class Fault {
    kFailed,  // no answer, or a 5xx or 429
    kSlow,    // worked, below min_speed
    kCorrupt, // served bytes that were not what they must be
};

/// Thread-safe.
class Health {
  public:
    struct Settings {
        int64_t rest_ns, max_rest_ns;
        std::function<int64_t()> now;   // ns since 1970; empty: the clock
        std::function<double()> random; // [0, 1); empty: a generator
    };
    explicit Health(Settings settings);

    void succeeded(const std::string &url);
    /// `retry_after_ns` as the endpoint asked, 0 when it did not.
    void failed(const std::string &url, Fault fault, const std::string &reason, int64_t retry_after_ns = 0);
    void answered(const std::string &url, int64_t latency_ns);
    /// Bytes of one transfer and the time that the endpoint took for them.
    void served(const std::string &url, uint64_t bytes, int64_t active_ns);
    void ignores_ranges(const std::string &url, bool yes);
    void trying(const std::string &url); // to measure it again; counts as measured until it is

    HealthRecord get(const std::string &url) const;
    int64_t resting_ns(const std::string &url) const; // 0: not resting
    int64_t wait_ns(const std::string &url) const;    // Retry-After still to go
    std::map<std::string, HealthRecord> all() const;
    int64_t now() const { return settings_.now(); }
    double random() const { return settings_.random(); }

    /// Counts a transfer for as long as it lives.
    class InFlight {
      public:
        InFlight(Health &health, std::string url) : health_(health), url_(std::move(url)) {
            health_.add_flight(url_, 1);
        }
        ~InFlight() { health_.add_flight(url_, -1); }
        InFlight(const InFlight &) = delete;
        InFlight &operator=(const InFlight &) = delete;

      private:
        Health &health_;
        std::string url_;
    };

    /// The text for the store (the 64 endpoints used last), and back. Unreadable text is nothing.
    std::string to_json() const;
    void from_json(const std::string &text);
    /// Grows when something should be stored soon (a rest began or ended) or at some time.
    uint64_t urgent_changes() const;
    uint64_t changes() const;

  private:
    HealthRecord &record(const std::string &url); // with mutex_ held
    void add_flight(const std::string &url, int delta);

    Settings settings_;
    mutable std::mutex mutex_;
    std::map<std::string, HealthRecord> records_;
    uint64_t changes_ = 0, urgent_ = 0;
};

} // namespace gantry::oci

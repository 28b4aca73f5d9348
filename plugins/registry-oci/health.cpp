#include "health.h"

#include <boost/json.hpp>

#include <algorithm>
#include <random>
#include <time.h>
#include <vector>

namespace gantry::oci {
namespace {

constexpr size_t kMaxRecords = 512;
constexpr size_t kMaxStored = 64;
constexpr size_t kMaxReason = 200;
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kHour = 3600 * kSecond;
constexpr int64_t kDay = 24 * kHour;
constexpr uint64_t kEnoughToMeasure = 64 << 10; // less says more about the first round trips

int64_t wall_clock() {
    timespec t{};
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * kSecond + t.tv_nsec;
}

double uniform() {
    thread_local std::minstd_rand generator{std::random_device{}()};
    return std::uniform_real_distribution<double>(0, 1)(generator);
}

} // namespace

Health::Health(Settings settings) : settings_(std::move(settings)) {
    if (!settings_.now) settings_.now = wall_clock;
    if (!settings_.random) settings_.random = uniform;
}

HealthRecord &Health::record(const std::string &url) {
    if (records_.size() >= kMaxRecords && !records_.contains(url)) {
        auto oldest = records_.end();
        for (auto it = records_.begin(); it != records_.end(); ++it)
            if (it->second.in_flight == 0 &&
                (oldest == records_.end() || it->second.measured < oldest->second.measured))
                oldest = it;
        if (oldest != records_.end()) records_.erase(oldest);
    }
    return records_[url];
}

void Health::succeeded(const std::string &url) {
    std::lock_guard lock(mutex_);
    HealthRecord &r = record(url);
    if (r.in_a_row || r.resting_until || r.successes == 0) ++urgent_;
    ++r.successes;
    ++changes_;
    r.in_a_row = 0;
    r.resting_until = r.not_before = 0;
}

void Health::failed(const std::string &url, Fault fault, const std::string &reason, int64_t retry_after_ns) {
    const int64_t now = settings_.now();
    const double jitter = 0.75 + settings_.random() / 2;
    std::lock_guard lock(mutex_);
    HealthRecord &r = record(url);
    ++r.failures;
    ++changes_;
    if (retry_after_ns > 0) {
        // Not for longer: it may have been about who asked, and that may change (a login).
        r.not_before = std::max(r.not_before, now + std::min(retry_after_ns, settings_.max_rest_ns));
        r.resting_until = std::max(r.resting_until, r.not_before);
        ++urgent_;
    }
    // Several transfers fail together when their endpoint dies: that is one failure.
    const bool resting = r.resting_until > now && r.in_a_row > 0;
    if (resting && fault != Fault::kCorrupt) return;
    if (now - r.last_failure > kHour) r.in_a_row = 0;
    const int64_t first = fault == Fault::kCorrupt ? kHour
                          : fault == Fault::kSlow  ? 60 * kSecond
                                                   : settings_.rest_ns;
    const int64_t longest = fault == Fault::kCorrupt ? kDay : std::max(settings_.max_rest_ns, first);
    int64_t rest = first;
    for (uint32_t i = 0; i < r.in_a_row && rest < longest; ++i)
        rest *= 2;
    rest = static_cast<int64_t>(static_cast<double>(std::min(rest, longest)) * jitter);
    if (fault == Fault::kCorrupt && r.resting_until - now > first / 2) return; // known already
    ++r.in_a_row;
    r.last_failure = now;
    r.resting_until = std::max(r.resting_until, now + rest);
    r.reason = reason.substr(0, kMaxReason);
    ++urgent_;
}

void Health::answered(const std::string &url, int64_t latency_ns) {
    if (latency_ns <= 0) return;
    const int64_t now = settings_.now();
    std::lock_guard lock(mutex_);
    HealthRecord &r = record(url);
    r.latency_ns = r.latency_ns < 0 ? latency_ns : (r.latency_ns * 7 + latency_ns * 3) / 10;
    r.measured = now;
    ++changes_;
}

void Health::served(const std::string &url, uint64_t bytes, int64_t active_ns) {
    if (bytes == 0) return;
    const int64_t now = settings_.now();
    std::lock_guard lock(mutex_);
    HealthRecord &r = record(url);
    r.bytes_served += bytes;
    ++changes_;
    if (bytes < kEnoughToMeasure || active_ns <= 0) return;
    const auto speed =
        static_cast<uint64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(active_ns));
    r.bytes_per_second = std::max<uint64_t>(1, r.bytes_per_second ? (r.bytes_per_second + speed) / 2 : speed);
    r.measured = now;
}

void Health::ignores_ranges(const std::string &url, bool yes) {
    std::lock_guard lock(mutex_);
    HealthRecord &r = record(url);
    if (r.no_ranges != yes) ++changes_;
    r.no_ranges = yes;
}

void Health::trying(const std::string &url) {
    const int64_t now = settings_.now();
    std::lock_guard lock(mutex_);
    record(url).measured = now;
}

void Health::add_flight(const std::string &url, int delta) {
    std::lock_guard lock(mutex_);
    HealthRecord &r = record(url);
    r.in_flight = static_cast<uint32_t>(std::max(0, static_cast<int>(r.in_flight) + delta));
}

HealthRecord Health::get(const std::string &url) const {
    std::lock_guard lock(mutex_);
    const auto found = records_.find(url);
    return found == records_.end() ? HealthRecord{} : found->second;
}

int64_t Health::resting_ns(const std::string &url) const {
    const int64_t left = get(url).resting_until - settings_.now();
    return left > 0 && left <= 2 * kDay ? left : 0; // more: the clock was set back
}

int64_t Health::wait_ns(const std::string &url) const {
    const int64_t left = get(url).not_before - settings_.now();
    return left > 0 && left <= kDay ? left : 0;
}

std::map<std::string, HealthRecord> Health::all() const {
    std::lock_guard lock(mutex_);
    return records_;
}

uint64_t Health::urgent_changes() const {
    std::lock_guard lock(mutex_);
    return urgent_;
}
uint64_t Health::changes() const {
    std::lock_guard lock(mutex_);
    return changes_;
}

std::string Health::to_json() const {
    std::vector<std::pair<std::string, HealthRecord>> list;
    {
        std::lock_guard lock(mutex_);
        list.assign(records_.begin(), records_.end());
    }
    const auto used = [](const HealthRecord &r) { return std::max(r.measured, r.last_failure); };
    std::stable_sort(list.begin(), list.end(),
                     [&](const auto &a, const auto &b) { return used(a.second) > used(b.second); });
    if (list.size() > kMaxStored) list.resize(kMaxStored);
    boost::json::object out;
    for (const auto &[url, r] : list)
        out[url] = {{"successes", r.successes},       {"failures", r.failures},
                    {"in_a_row", r.in_a_row},         {"resting_until", r.resting_until},
                    {"not_before", r.not_before},     {"last_failure", r.last_failure},
                    {"latency_ns", r.latency_ns},     {"bytes_per_second", r.bytes_per_second},
                    {"bytes_served", r.bytes_served}, {"measured", r.measured},
                    {"no_ranges", r.no_ranges},       {"reason", r.reason}};
    return boost::json::serialize(out);
}

void Health::from_json(const std::string &text) {
    boost::system::error_code failed;
    boost::json::parse_options limits;
    limits.max_depth = 8;
    const auto document = boost::json::parse(text, failed, {}, limits);
    if (failed || !document.is_object()) return;
    std::lock_guard lock(mutex_);
    for (const auto &[url, value] : document.get_object()) {
        const auto *o = value.if_object();
        if (!o || records_.size() >= kMaxRecords || records_.contains(std::string(url))) continue;
        const auto number = [&](const char *key, int64_t otherwise) {
            const auto *v = o->if_contains(key);
            return v && v->is_int64() ? v->get_int64() : otherwise;
        };
        const auto natural = [&](const char *key) {
            return static_cast<uint64_t>(std::max<int64_t>(0, number(key, 0)));
        };
        HealthRecord r;
        r.successes = static_cast<uint32_t>(natural("successes"));
        r.failures = static_cast<uint32_t>(natural("failures"));
        r.in_a_row = static_cast<uint32_t>(std::min<uint64_t>(natural("in_a_row"), 64));
        r.resting_until = number("resting_until", 0);
        r.not_before = number("not_before", 0);
        r.last_failure = number("last_failure", 0);
        r.latency_ns = number("latency_ns", -1);
        r.bytes_per_second = natural("bytes_per_second");
        r.bytes_served = natural("bytes_served");
        r.measured = number("measured", 0);
        const auto *ranges = o->if_contains("no_ranges");
        r.no_ranges = ranges && ranges->is_bool() && ranges->get_bool();
        const auto *reason = o->if_contains("reason");
        if (reason && reason->is_string()) r.reason = std::string(reason->get_string()).substr(0, kMaxReason);
        records_.emplace(url, std::move(r));
    }
}

} // namespace gantry::oci

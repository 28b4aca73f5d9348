// Measured order is by the time expected for the bytes wanted, in steps of a quarter: measurements of one
// endpoint vary that much, and endpoints that are about as fast keep the order the administrator gave them.
#include "choice.h"

#include <algorithm>
#include <cmath>

namespace gantry::oci {
namespace {

constexpr double kStep = 1.25;
constexpr int64_t kMeasureAgain = 15 * 60 * 1'000'000'000LL;
constexpr double kUnknownLatency = 0.2; // seconds
constexpr double kUnknownSpeed = 10e6;  // bytes per second
constexpr uint64_t kUnknownSize = 1 << 20;

double speed_of(const HealthRecord &r, double otherwise) {
    return r.bytes_per_second ? static_cast<double>(r.bytes_per_second) : otherwise;
}

int expected_step(const HealthRecord &r, uint64_t size) {
    const double latency = r.latency_ns < 0 ? kUnknownLatency : static_cast<double>(r.latency_ns) / 1e9;
    const double seconds = latency + static_cast<double>(size) / speed_of(r, kUnknownSpeed);
    return static_cast<int>(std::floor(std::log(std::max(seconds, 1e-6)) / std::log(kStep)));
}

bool may(const Endpoint &e, Purpose purpose) {
    return !e.blocked && (purpose == Purpose::kTag ? e.rights.resolve_tags : e.rights.pull);
}

using Iterator = std::vector<Endpoint>::iterator;

void by_measure(Iterator begin, Iterator end, uint64_t size, Health &health, bool explore) {
    std::map<std::string, int> steps;
    for (auto it = begin; it != end; ++it)
        steps[it->url] = expected_step(health.get(it->url), size);
    std::stable_sort(begin, end,
                     [&](const Endpoint &a, const Endpoint &b) { return steps[a.url] < steps[b.url]; });
    if (!explore) return;
    const int64_t now = health.now();
    for (auto it = begin; it != end; ++it) {
        if (health.resting_ns(it->url) || now - health.get(it->url).measured < kMeasureAgain) continue;
        health.trying(it->url);
        std::rotate(begin, it, it + 1);
        return;
    }
}

void by_load(Iterator begin, Iterator end, Health &health) {
    double total = 0;
    int known = 0;
    std::map<std::string, HealthRecord> records;
    for (auto it = begin; it != end; ++it) {
        const HealthRecord &r = records[it->url] = health.get(it->url);
        if (r.bytes_per_second) total += static_cast<double>(r.bytes_per_second), ++known;
    }
    const double mean = known ? total / known : 1;
    std::stable_sort(begin, end, [&](const Endpoint &a, const Endpoint &b) {
        const auto load = [&](const HealthRecord &r) { return (r.in_flight + 1.0) / speed_of(r, mean); };
        return load(records[a.url]) < load(records[b.url]);
    });
}

} // namespace

std::vector<Endpoint> choose(std::vector<Endpoint> list, const HostOptions &host, Purpose purpose,
                             uint64_t size, Health &health, bool explore) {
    std::erase_if(list, [&](const Endpoint &e) { return !may(e, purpose); });
    // Equals: the mirrors; with spread_origin the registry too; without mirrors the registry alone.
    const auto equals = [&](const Endpoint &e) { return e.mirror || host.spread_origin; };
    auto split = std::stable_partition(list.begin(), list.end(), equals);
    if (host.measured)
        by_measure(list.begin(), split,
                   purpose == Purpose::kTag ? 16 << 10
                   : size                   ? size
                                            : kUnknownSize,
                   health, explore);
    const auto rested = std::stable_partition(
        list.begin(), list.end(), [&](const Endpoint &e) { return health.resting_ns(e.url) == 0; });
    if (purpose == Purpose::kRange) {
        split = std::find_if_not(list.begin(), rested, equals);
        by_load(list.begin(), split, health);
    }
    return list;
}

} // namespace gantry::oci

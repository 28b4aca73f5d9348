// explain: what would be tried, in which order and why. status: what is remembered. Nothing is asked.
#include "oci_driver.h"

namespace gantry::oci {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
const char *const kDockerHub = "https://registry-1.docker.io";

} // namespace

EndpointLine OciDriver::line_of(const Endpoint &e) const {
    const std::string url = spoken_url(e);
    const HealthRecord r = health_.get(url);
    EndpointLine line;
    line.url = url;
    line.role = e.mirror ? "mirror" : "origin";
    line.reason = e.reason;
    line.can_pull = e.rights.pull;
    line.can_resolve = e.rights.resolve_tags;
    line.can_push = e.rights.push;
    line.registry = e.registry;
    line.latency_ns = r.latency_ns;
    line.bytes_per_second = r.bytes_per_second;
    line.bytes_served = r.bytes_served;
    line.successes = r.successes;
    line.failures = r.failures;
    const int64_t resting = line.resting_ns = health_.resting_ns(url);
    if (e.blocked) {
        line.state = "blocked";
        line.can_pull = line.can_resolve = line.can_push = false;
    } else if (resting > 0) {
        line.state = "resting for " + std::to_string((resting + kSecond - 1) / kSecond) + "s";
        line.reason += "; last failure: " + r.reason;
    } else {
        line.state = r.in_a_row == 0 && r.successes > 0 ? "ok" : "unknown";
    }
    return line;
}

std::vector<EndpointLine> OciDriver::explain(const Call &call, const RegistryReference &ref) {
    const HealthScope scope(*this, call);
    std::vector<EndpointLine> out;
    try {
        table_.check_allowed("pull " + ref.registry + "/" + ref.repository, ref.registry, ref.repository);
    } catch (const Error &blocked) {
        for (Endpoint &e : endpoints(ref.registry)) {
            e.blocked = true;
            e.reason = blocked.message();
            out.push_back(line_of(e));
        }
        return out;
    }
    std::set<std::string> said;
    // Who may say what a tag means comes first, as in a pull; then those that only serve bytes.
    for (const Purpose purpose : {Purpose::kTag, Purpose::kBytes}) {
        if (purpose == Purpose::kTag && !ref.digest.empty()) continue;
        for (const Endpoint &e : chosen(ref.registry, purpose, 0, false))
            if (said.insert(e.url).second) out.push_back(line_of(e));
    }
    for (const Endpoint &e : endpoints(ref.registry))
        if (said.insert(e.url).second) out.push_back(line_of(e)); // blocked, or without a right
    return out;
}

std::vector<EndpointLine> OciDriver::status(const Call &call) {
    const HealthScope scope(*this, call);
    std::vector<EndpointLine> out;
    std::set<std::string> said;
    for (const auto &[name, host] : options_.hosts)
        for (const Endpoint &e : endpoints(name)) {
            if (!e.mirror && name.find('*') != std::string::npos) continue; // as many as there are names
            said.insert(spoken_url(e));
            out.push_back(line_of(e));
            if (host.blocked) out.back().state = "blocked";
        }
    for (const auto &[url, record] : health_.all()) { // met by the names in references
        if (said.contains(url)) continue;
        Endpoint e;
        e.url = url;
        e.registry = url == kDockerHub ? "docker.io" : host_of(url);
        e.reason = "the registry named in a reference";
        out.push_back(line_of(e));
    }
    return out;
}

} // namespace gantry::oci

// explain: what would be tried, in which order and why; nothing is asked.
#include "oci_driver.h"

namespace gantry::oci {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

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
    const int64_t resting = health_.resting_ns(url);
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
    table_.check_allowed("explain " + ref.registry + "/" + ref.repository, ref.registry, ref.repository);
    std::vector<EndpointLine> out;
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

} // namespace gantry::oci

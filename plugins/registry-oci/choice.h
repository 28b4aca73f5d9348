// The order in which endpoints are asked: rights, then the configuration or what was measured, then health.
#pragma once

#include "endpoints.h"
#include "health.h"

#include <vector>

namespace gantry::oci {

enum class Purpose {
    kTag,   // what does it mean: endpoints with resolve_tags
    kBytes, // a manifest or a blob by digest: endpoints with pull
    kRange, // one of several parallel ranges of a blob
};

/// `list` as EndpointTable::list gives it; endpoints without the right, and blocked ones, are left out.
/// Mirrors stand as written, or with host.measured by the time expected for `size` bytes; then the registry
/// itself (among the mirrors with host.spread_origin). kRange: of those of equal standing that do not rest,
/// the least busy for its speed comes first. What rests comes last.
/// `explore`: now and then one that was not measured for a while is put first; that is noted in `health`.
std::vector<Endpoint> choose(std::vector<Endpoint> list, const HostOptions &host, Purpose purpose,
                             uint64_t size, Health &health, bool explore);

} // namespace gantry::oci

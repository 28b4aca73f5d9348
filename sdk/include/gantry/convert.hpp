// Between the C++ structs and their C twins. from_c copies; a ToC object borrows its source and owns
// the arrays in between, so it must outlive the call.
#pragma once

#include <gantry/network.hpp>
#include <gantry/registry.hpp>

#include <deque>

namespace gantry::detail {

/// A string of the other side: NULL counts as empty, and nobody gets to hand over endless ones.
inline std::string text(const char *s, size_t limit = 65536) {
    if (!s) return {};
    const size_t size = strnlen(s, limit + 1);
    if (size > limit) throw Error(ErrorClass::kInternal, "take over text: too long");
    return {s, size};
}

inline Options from_c(const gantry_label *labels, uint32_t count) {
    Options out;
    for (uint32_t i = 0; i < count; ++i)
        out.emplace_back(text(labels[i].key), text(labels[i].value));
    return out;
}
inline Subnet from_c(const gantry_subnet &s) { return {text(s.cidr), text(s.gateway), text(s.range)}; }
inline NetworkSpec from_c(const gantry_network_spec &s) {
    NetworkSpec out;
    out.id = text(s.id);
    out.name = text(s.name);
    for (uint32_t i = 0; i < s.subnet_count; ++i)
        out.subnets.push_back(from_c(s.subnets[i]));
    out.internal = s.internal != 0;
    out.ipv6 = s.ipv6 != 0;
    out.options = from_c(s.options, s.option_count);
    out.mtu = s.mtu;
    return out;
}
inline EndpointSpec from_c(const gantry_endpoint_spec &s) {
    EndpointSpec out;
    out.id = text(s.id);
    out.network_id = text(s.network_id);
    out.netns_fd = s.netns_fd;
    out.interface_name = text(s.interface_name);
    out.ipv4 = text(s.ipv4);
    out.ipv6 = text(s.ipv6);
    out.mac = text(s.mac);
    out.hostname = text(s.hostname);
    out.options = from_c(s.options, s.option_count);
    return out;
}
inline EndpointInfo from_c(const gantry_endpoint_info &i) {
    EndpointInfo out;
    out.ipv4 = text(i.ipv4);
    out.ipv4_gateway = text(i.ipv4_gateway);
    out.ipv6 = text(i.ipv6);
    out.ipv6_gateway = text(i.ipv6_gateway);
    out.mac = text(i.mac);
    out.host_interface = text(i.host_interface);
    out.ipv4_prefix = i.ipv4_prefix;
    out.ipv6_prefix = i.ipv6_prefix;
    out.mtu = i.mtu;
    return out;
}
inline PortBinding from_c(const gantry_port &p) {
    return {p.protocol, text(p.host_ip), p.host_port, p.host_port_end, p.container_port};
}
inline gantry_subnet to_c(const Subnet &s) {
    return {sizeof(gantry_subnet), 0, s.cidr.c_str(), s.gateway.c_str(), s.range.c_str()};
}
inline gantry_port to_c(const PortBinding &p) {
    return {sizeof(gantry_port), p.protocol, p.host_ip.c_str(), p.host_port, p.host_port_end,
            p.container_port,    0};
}
inline gantry_endpoint_info to_c(const EndpointInfo &i) {
    gantry_endpoint_info raw{};
    raw.struct_size = sizeof raw;
    raw.ipv4_prefix = i.ipv4_prefix;
    raw.ipv4 = i.ipv4.c_str();
    raw.ipv4_gateway = i.ipv4_gateway.c_str();
    raw.ipv6 = i.ipv6.c_str();
    raw.ipv6_gateway = i.ipv6_gateway.c_str();
    raw.mac = i.mac.c_str();
    raw.host_interface = i.host_interface.c_str();
    raw.ipv6_prefix = i.ipv6_prefix;
    raw.mtu = i.mtu;
    return raw;
}

struct LabelsToC {
    std::vector<gantry_label> raw;
    explicit LabelsToC(const Options &from) {
        raw.reserve(from.size());
        for (const auto &[key, value] : from)
            raw.push_back({key.c_str(), value.c_str()});
    }
    uint32_t count() const { return static_cast<uint32_t>(raw.size()); }
};

struct NetworkSpecToC {
    LabelsToC labels;
    std::vector<gantry_subnet> subnets;
    gantry_network_spec raw{};
    explicit NetworkSpecToC(const NetworkSpec &s) : labels(s.options) {
        for (const Subnet &subnet : s.subnets)
            subnets.push_back(to_c(subnet));
        raw.struct_size = sizeof raw;
        raw.internal = s.internal;
        raw.id = s.id.c_str();
        raw.name = s.name.c_str();
        raw.subnets = subnets.data();
        raw.subnet_count = static_cast<uint32_t>(subnets.size());
        raw.ipv6 = s.ipv6;
        raw.options = labels.raw.data();
        raw.option_count = labels.count();
        raw.mtu = s.mtu;
    }
    NetworkSpecToC(const NetworkSpecToC &) = delete;
};

struct EndpointSpecToC {
    LabelsToC labels;
    gantry_endpoint_spec raw{};
    explicit EndpointSpecToC(const EndpointSpec &s) : labels(s.options) {
        raw.struct_size = sizeof raw;
        raw.netns_fd = s.netns_fd;
        raw.id = s.id.c_str();
        raw.network_id = s.network_id.c_str();
        raw.interface_name = s.interface_name.c_str();
        raw.ipv4 = s.ipv4.c_str();
        raw.ipv6 = s.ipv6.c_str();
        raw.mac = s.mac.c_str();
        raw.hostname = s.hostname.c_str();
        raw.options = labels.raw.data();
        raw.option_count = labels.count();
    }
    EndpointSpecToC(const EndpointSpecToC &) = delete;
};

inline RegistryReference from_c(const gantry_reference &r) {
    return {text(r.registry), text(r.repository), text(r.tag), text(r.digest)};
}
inline gantry_reference to_c(const RegistryReference &r) {
    return {sizeof(gantry_reference), 0, r.registry.c_str(), r.repository.c_str(), r.tag.c_str(),
            r.digest.c_str()};
}
inline std::optional<Credential> from_c(const gantry_credential *c) {
    if (!c) return std::nullopt;
    return Credential{text(c->server), text(c->username), text(c->password), text(c->identity_token),
                      text(c->registry_token)};
}
inline gantry_credential to_c(const Credential &c) {
    return {sizeof(gantry_credential), 0,
            c.server.c_str(),          c.username.c_str(),
            c.password.c_str(),        c.identity_token.c_str(),
            c.registry_token.c_str()};
}
inline EndpointLine from_c(const gantry_endpoint_line &l) {
    EndpointLine out;
    out.url = text(l.url);
    out.role = text(l.role);
    out.state = text(l.state);
    out.reason = text(l.reason);
    out.can_pull = l.can_pull != 0;
    out.can_resolve = l.can_resolve != 0;
    out.can_push = l.can_push != 0;
    if (!GANTRY_HAS(&l, resting_ns)) return out; // ABI 1.0
    out.registry = text(l.registry);
    out.latency_ns = l.latency_ns;
    out.bytes_per_second = l.bytes_per_second;
    out.bytes_served = l.bytes_served;
    out.successes = l.successes;
    out.failures = l.failures;
    out.resting_ns = l.resting_ns;
    return out;
}
inline gantry_endpoint_line to_c(const EndpointLine &l) {
    gantry_endpoint_line raw{};
    raw.struct_size = sizeof raw;
    raw.can_pull = l.can_pull;
    raw.can_resolve = l.can_resolve;
    raw.can_push = l.can_push;
    raw.url = l.url.c_str();
    raw.role = l.role.c_str();
    raw.state = l.state.c_str();
    raw.reason = l.reason.c_str();
    raw.registry = l.registry.c_str();
    raw.latency_ns = l.latency_ns;
    raw.bytes_per_second = l.bytes_per_second;
    raw.bytes_served = l.bytes_served;
    raw.successes = l.successes;
    raw.failures = l.failures;
    raw.resting_ns = l.resting_ns;
    return raw;
}
inline Descriptor from_c(const gantry_descriptor &d) {
    return {text(d.media_type), text(d.digest), d.size, text(d.endpoint)};
}
inline gantry_descriptor to_c(const Descriptor &d) {
    return {sizeof(gantry_descriptor), 0, d.media_type.c_str(), d.digest.c_str(), d.size, d.endpoint.c_str()};
}

} // namespace gantry::detail

// See records.h. Readers take a missing member as its default, so that a later version may add some.
#include "core/network/records.h"

#include <boost/json.hpp>

namespace gantry {

namespace json = boost::json;

namespace {

json::object parse_object(const std::string &text) {
    boost::system::error_code e;
    json::value v = json::parse(text.empty() ? "{}" : text, e);
    if (e || !v.is_object()) throw Error(ErrorClass::kDataLoss, "read network record: not a JSON object");
    return std::move(v.as_object());
}

std::string text_of(const json::object &o, const char *key) {
    const json::value *v = o.if_contains(key);
    return v && v->is_string() ? std::string(v->as_string()) : std::string();
}

template <typename T = uint32_t> T number_of(const json::object &o, const char *key) {
    const json::value *v = o.if_contains(key);
    return v && v->is_int64() ? static_cast<T>(v->as_int64()) : T{};
}

bool flag_of(const json::object &o, const char *key) {
    const json::value *v = o.if_contains(key);
    return v && v->is_bool() && v->as_bool();
}

json::object options_to(const Options &options) {
    json::object o;
    for (const auto &[key, value] : options)
        o[key] = value;
    return o;
}

Options options_from(const json::object &o) {
    Options options;
    if (const json::value *v = o.if_contains("options"); v && v->is_object())
        for (const auto &m : v->as_object())
            if (m.value().is_string()) options.emplace_back(m.key(), m.value().as_string());
    return options;
}

} // namespace

std::string to_json(const NetworkSpec &spec) {
    json::array subnets;
    for (const Subnet &s : spec.subnets)
        subnets.push_back(json::object{{"cidr", s.cidr}, {"gateway", s.gateway}, {"range", s.range}});
    return json::serialize(json::object{{"id", spec.id},
                                        {"name", spec.name},
                                        {"subnets", std::move(subnets)},
                                        {"internal", spec.internal},
                                        {"ipv6", spec.ipv6},
                                        {"mtu", spec.mtu},
                                        {"options", options_to(spec.options)}});
}

NetworkSpec network_spec_from_json(const std::string &text) {
    const json::object o = parse_object(text);
    NetworkSpec spec;
    spec.id = text_of(o, "id");
    spec.name = text_of(o, "name");
    spec.internal = flag_of(o, "internal");
    spec.ipv6 = flag_of(o, "ipv6");
    spec.mtu = number_of(o, "mtu");
    spec.options = options_from(o);
    if (const json::value *v = o.if_contains("subnets"); v && v->is_array())
        for (const json::value &s : v->as_array())
            if (s.is_object())
                spec.subnets.push_back({text_of(s.as_object(), "cidr"), text_of(s.as_object(), "gateway"),
                                        text_of(s.as_object(), "range")});
    return spec;
}

std::string to_json(const EndpointSpec &spec) {
    return json::serialize(json::object{{"id", spec.id},
                                        {"network", spec.network_id},
                                        {"interface", spec.interface_name},
                                        {"ipv4", spec.ipv4},
                                        {"ipv6", spec.ipv6},
                                        {"mac", spec.mac},
                                        {"hostname", spec.hostname},
                                        {"options", options_to(spec.options)}});
}

EndpointSpec endpoint_spec_from_json(const std::string &text) {
    const json::object o = parse_object(text);
    EndpointSpec spec;
    spec.id = text_of(o, "id");
    spec.network_id = text_of(o, "network");
    spec.interface_name = text_of(o, "interface");
    spec.ipv4 = text_of(o, "ipv4");
    spec.ipv6 = text_of(o, "ipv6");
    spec.mac = text_of(o, "mac");
    spec.hostname = text_of(o, "hostname");
    spec.options = options_from(o);
    return spec;
}

std::string to_json(const EndpointInfo &info) {
    return json::serialize(json::object{{"ipv4", info.ipv4},
                                        {"ipv4_gateway", info.ipv4_gateway},
                                        {"ipv4_prefix", info.ipv4_prefix},
                                        {"ipv6", info.ipv6},
                                        {"ipv6_gateway", info.ipv6_gateway},
                                        {"ipv6_prefix", info.ipv6_prefix},
                                        {"mac", info.mac},
                                        {"host_interface", info.host_interface},
                                        {"mtu", info.mtu}});
}

EndpointInfo endpoint_info_from_json(const std::string &text) {
    const json::object o = parse_object(text);
    EndpointInfo info;
    info.ipv4 = text_of(o, "ipv4");
    info.ipv4_gateway = text_of(o, "ipv4_gateway");
    info.ipv4_prefix = number_of(o, "ipv4_prefix");
    info.ipv6 = text_of(o, "ipv6");
    info.ipv6_gateway = text_of(o, "ipv6_gateway");
    info.ipv6_prefix = number_of(o, "ipv6_prefix");
    info.mac = text_of(o, "mac");
    info.host_interface = text_of(o, "host_interface");
    info.mtu = number_of(o, "mtu");
    return info;
}

std::string to_json(const std::vector<PortBinding> &ports) {
    if (ports.empty()) return {};
    json::array list;
    for (const PortBinding &p : ports)
        list.push_back(json::object{{"protocol", static_cast<int>(p.protocol)},
                                    {"host_ip", p.host_ip},
                                    {"host_port", p.host_port},
                                    {"host_port_end", p.host_port_end},
                                    {"container_port", p.container_port}});
    return json::serialize(list);
}

std::vector<PortBinding> ports_from_json(const std::string &text) {
    std::vector<PortBinding> ports;
    if (text.empty()) return ports;
    boost::system::error_code e;
    const json::value v = json::parse(text, e);
    if (e || !v.is_array())
        throw Error(ErrorClass::kDataLoss, "read endpoint record: ports are no JSON array");
    for (const json::value &item : v.as_array()) {
        if (!item.is_object())
            throw Error(ErrorClass::kDataLoss, "read endpoint record: a port is no JSON object");
        const json::object &o = item.as_object();
        PortBinding p;
        p.protocol = static_cast<gantry_protocol>(number_of<int>(o, "protocol"));
        p.host_ip = text_of(o, "host_ip");
        p.host_port = number_of<uint16_t>(o, "host_port");
        p.host_port_end = number_of<uint16_t>(o, "host_port_end");
        p.container_port = number_of<uint16_t>(o, "container_port");
        ports.push_back(std::move(p));
    }
    return ports;
}

} // namespace gantry

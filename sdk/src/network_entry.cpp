// The network table over NetworkDriver's virtual functions.
#include <gantry/convert.hpp>
#include <gantry/plugin.hpp>

namespace gantry::detail {
namespace {

NetworkDriver &of(gantry_driver *driver) { return *reinterpret_cast<NetworkDriver *>(driver); }

std::vector<PortBinding> bindings(const gantry_port *ports, uint32_t count) {
    std::vector<PortBinding> out;
    out.reserve(count);
    for (uint32_t i = 0; i < count; ++i)
        out.push_back(from_c(ports[i]));
    return out;
}

gantry_status caps(gantry_driver *driver, const gantry_call *call, gantry_network_caps *out) {
    return guard(call, [&] {
        const NetworkCaps c = of(driver).caps(Call(call));
        if (GANTRY_HAS(out, ports)) out->ports = c.ports;
        if (GANTRY_HAS(out, ipv6)) out->ipv6 = c.ipv6;
        if (GANTRY_HAS(out, internal)) out->internal = c.internal;
        if (GANTRY_HAS(out, multiple)) out->multiple = c.multiple;
        if (GANTRY_HAS(out, static_address)) out->static_address = c.static_address;
    });
}

gantry_status create_network(gantry_driver *driver, const gantry_call *call, const gantry_network_spec *spec,
                             const gantry_subnet_sink *sink) {
    return guard(call, [&] {
        for (const Subnet &s : of(driver).create_network(Call(call), from_c(*spec))) {
            const gantry_subnet raw = to_c(s);
            check_sink(sink->add(sink->ctx, &raw));
        }
    });
}

gantry_status remove_network(gantry_driver *driver, const gantry_call *call,
                             const gantry_network_spec *spec) {
    return guard(call, [&] { of(driver).remove_network(Call(call), from_c(*spec)); });
}

gantry_status attach(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_spec *spec,
                     const gantry_endpoint_sink *sink) {
    return guard(call, [&] {
        const EndpointInfo info = of(driver).attach(Call(call), from_c(*spec));
        const gantry_endpoint_info raw = to_c(info);
        check_sink(sink->set(sink->ctx, &raw));
    });
}

gantry_status detach(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_spec *spec) {
    return guard(call, [&] { of(driver).detach(Call(call), from_c(*spec)); });
}

gantry_status publish(gantry_driver *driver, const gantry_call *call, const char *endpoint_id,
                      const gantry_endpoint_info *info, const gantry_port *ports, uint32_t port_count,
                      const gantry_port_sink *sink) {
    return guard(call, [&] {
        for (const PortBinding &p :
             of(driver).publish(Call(call), endpoint_id, from_c(*info), bindings(ports, port_count))) {
            const gantry_port raw = to_c(p);
            check_sink(sink->add(sink->ctx, &raw));
        }
    });
}

gantry_status restore(gantry_driver *driver, const gantry_call *call, const gantry_network_state *state) {
    return guard(call, [&] {
        std::vector<NetworkSpec> networks;
        for (uint32_t i = 0; i < state->network_count; ++i)
            networks.push_back(from_c(*state->networks[i]));
        std::vector<EndpointState> endpoints;
        for (uint32_t i = 0; i < state->endpoint_count; ++i) {
            const gantry_endpoint_state &e = *state->endpoints[i];
            endpoints.push_back({from_c(*e.spec), from_c(*e.info), bindings(e.ports, e.port_count)});
        }
        of(driver).restore(Call(call), networks, endpoints);
    });
}

gantry_status stats(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_spec *spec,
                    gantry_network_stats *out) {
    return guard(call, [&] {
        const NetworkStats s = of(driver).stats(Call(call), from_c(*spec));
        if (!GANTRY_HAS(out, tx_dropped))
            throw Error(ErrorClass::kInvalidArgument, "read statistics: short struct");
        out->rx_bytes = s.rx_bytes;
        out->rx_packets = s.rx_packets;
        out->rx_errors = s.rx_errors;
        out->rx_dropped = s.rx_dropped;
        out->tx_bytes = s.tx_bytes;
        out->tx_packets = s.tx_packets;
        out->tx_errors = s.tx_errors;
        out->tx_dropped = s.tx_dropped;
    });
}

gantry_status clean(gantry_driver *driver, const gantry_call *call) {
    return guard(call, [&] { of(driver).clean(Call(call)); });
}

} // namespace

const gantry_network_v1 kNetworkTable = {sizeof(gantry_network_v1),
                                         0,
                                         caps,
                                         create_network,
                                         remove_network,
                                         attach,
                                         detach,
                                         publish,
                                         restore,
                                         stats,
                                         clean};

} // namespace gantry::detail

// NetworkDriver over a loaded plugin's table.
#include "core/plugin/proxy.h"

#include <deque>

namespace gantry {
namespace {

class NetworkProxy : public NetworkDriver, private ProxyBase {
  public:
    explicit NetworkProxy(std::shared_ptr<Instance> instance) : ProxyBase(std::move(instance)) {}

    NetworkCaps caps(const Call &call) override {
        gantry_network_caps raw{};
        raw.struct_size = sizeof raw;
        invoke(call, "ask network for its abilities", [&](auto *c) { return t().caps(driver(), c, &raw); });
        return {raw.ports != 0, raw.ipv6 != 0, raw.internal != 0, raw.multiple != 0, raw.static_address != 0};
    }

    std::vector<Subnet> create_network(const Call &call, const NetworkSpec &spec) override {
        using Into = Collect<NetworkProxy, std::vector<Subnet>>;
        Into into{this};
        auto sink = sink_for<gantry_subnet_sink>(&into);
        sink.add = [](void *ctx, const gantry_subnet *raw) {
            return Into::run(ctx, [&](Into &c) {
                const gantry_subnet &s = c.self->whole(raw, "subnet");
                if (c.out.size() >= 64) c.self->fail("settled too many subnets");
                c.out.push_back({c.self->required(s.cidr, "subnet", 64),
                                 c.self->required(s.gateway, "gateway", 64), detail::text(s.range, 64)});
            });
        };
        const detail::NetworkSpecToC raw(spec);
        invoke(
            call, {"create network ", spec.name},
            [&](auto *c) { return t().create_network(driver(), c, &raw.raw, &sink); }, &into.caught);
        return std::move(into.out);
    }

    void remove_network(const Call &call, const NetworkSpec &spec) override {
        const detail::NetworkSpecToC raw(spec);
        invoke(call, {"remove network ", spec.name},
               [&](auto *c) { return t().remove_network(driver(), c, &raw.raw); });
    }

    EndpointInfo attach(const Call &call, const EndpointSpec &spec) override {
        using Into = Collect<NetworkProxy, EndpointInfo>;
        Into into{this};
        auto sink = sink_for<gantry_endpoint_sink>(&into);
        sink.set = [](void *ctx, const gantry_endpoint_info *raw) {
            return Into::run(ctx, [&](Into &c) {
                if (c.calls > 1) c.self->fail("settled an endpoint twice");
                const gantry_endpoint_info &i = c.self->whole(raw, "endpoint");
                for (const char *text :
                     {i.ipv4, i.ipv4_gateway, i.ipv6, i.ipv6_gateway, i.mac, i.host_interface})
                    c.self->required(text, "address of the endpoint", 64);
                if (i.ipv4_prefix > 32 || i.ipv6_prefix > 128 || i.mtu > 1u << 20)
                    c.self->fail("settled an endpoint with absurd numbers");
                c.out = detail::from_c(i);
            });
        };
        const detail::EndpointSpecToC raw(spec);
        invoke(
            call, {"attach endpoint ", spec.id},
            [&](auto *c) { return t().attach(driver(), c, &raw.raw, &sink); }, &into.caught);
        if (into.calls == 0) fail("reported success without settling endpoint " + spec.id);
        return std::move(into.out);
    }

    void detach(const Call &call, const EndpointSpec &spec) override {
        const detail::EndpointSpecToC raw(spec);
        invoke(call, {"detach endpoint ", spec.id},
               [&](auto *c) { return t().detach(driver(), c, &raw.raw); });
    }

    std::vector<PortBinding> publish(const Call &call, const std::string &endpoint_id,
                                     const EndpointInfo &info,
                                     const std::vector<PortBinding> &ports) override {
        using Into = Collect<NetworkProxy, std::vector<PortBinding>>;
        Into into{this};
        auto sink = sink_for<gantry_port_sink>(&into);
        sink.add = [](void *ctx, const gantry_port *raw) {
            return Into::run(ctx, [&](Into &c) {
                const gantry_port &p = c.self->whole(raw, "port");
                if (c.out.size() >= 65536) c.self->fail("settled too many ports");
                if (p.host_port == 0 || p.host_port != p.host_port_end) c.self->fail("left a port unsettled");
                c.self->required(p.host_ip, "host address", 64);
                c.out.push_back(detail::from_c(p));
            });
        };
        const gantry_endpoint_info raw_info = detail::to_c(info);
        std::vector<gantry_port> raw;
        for (const PortBinding &p : ports)
            raw.push_back(detail::to_c(p));
        invoke(
            call, {"publish ports of endpoint ", endpoint_id},
            [&](auto *c) {
                return t().publish(driver(), c, endpoint_id.c_str(), &raw_info, raw.data(),
                                   static_cast<uint32_t>(raw.size()), &sink);
            },
            &into.caught);
        if (into.out.size() != ports.size()) fail("settled another number of ports than asked for");
        return std::move(into.out);
    }

    void restore(const Call &call, const std::vector<NetworkSpec> &networks,
                 const std::vector<EndpointState> &endpoints) override {
        std::deque<detail::NetworkSpecToC> specs;
        std::vector<const gantry_network_spec *> network_list;
        for (const NetworkSpec &n : networks)
            network_list.push_back(&specs.emplace_back(n).raw);
        struct One {
            detail::EndpointSpecToC spec;
            gantry_endpoint_info info;
            std::vector<gantry_port> ports;
            gantry_endpoint_state raw{};
            explicit One(const EndpointState &e) : spec(e.spec), info(detail::to_c(e.info)) {
                for (const PortBinding &p : e.ports)
                    ports.push_back(detail::to_c(p));
                raw.struct_size = sizeof raw;
                raw.port_count = static_cast<uint32_t>(ports.size());
                raw.spec = &spec.raw;
                raw.info = &info;
                raw.ports = ports.data();
            }
        };
        std::deque<One> states;
        std::vector<const gantry_endpoint_state *> endpoint_list;
        for (const EndpointState &e : endpoints)
            endpoint_list.push_back(&states.emplace_back(e).raw);
        gantry_network_state state{};
        state.struct_size = sizeof state;
        state.network_count = static_cast<uint32_t>(network_list.size());
        state.networks = network_list.data();
        state.endpoints = endpoint_list.data();
        state.endpoint_count = static_cast<uint32_t>(endpoint_list.size());
        invoke(call, "restore networks", [&](auto *c) { return t().restore(driver(), c, &state); });
    }

    NetworkStats stats(const Call &call, const EndpointSpec &spec) override {
        gantry_network_stats raw{};
        raw.struct_size = sizeof raw;
        const detail::EndpointSpecToC from(spec);
        invoke(call, {"read statistics of endpoint ", spec.id},
               [&](auto *c) { return t().stats(driver(), c, &from.raw, &raw); });
        return {raw.rx_bytes, raw.rx_packets, raw.rx_errors, raw.rx_dropped,
                raw.tx_bytes, raw.tx_packets, raw.tx_errors, raw.tx_dropped};
    }

    void clean(const Call &call) override {
        invoke(call, "clean networks", [&](auto *c) { return t().clean(driver(), c); });
    }

  private:
    template <typename Self, typename Out> friend struct Collect;
    const gantry_network_v1 &t() const { return table<gantry_network_v1>(); }
};

} // namespace

std::shared_ptr<NetworkDriver> make_network_proxy(std::shared_ptr<Instance> instance) {
    return std::make_shared<NetworkProxy>(std::move(instance));
}

} // namespace gantry

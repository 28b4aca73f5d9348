// The network driver as a C++ class. Semantics of each call: <gantry/network.h>.
#pragma once

#include <gantry/call.hpp>
#include <gantry/network.h>

#include <string>
#include <utility>
#include <vector>

namespace gantry {

struct NetworkCaps {
    bool ports = false, ipv6 = false, internal = false, multiple = false, static_address = false;
};

struct Subnet {
    std::string cidr, gateway, range;
};

using Options = std::vector<std::pair<std::string, std::string>>;

struct NetworkSpec {
    std::string id, name;
    std::vector<Subnet> subnets;
    bool internal = false;
    bool ipv6 = false;
    Options options;
    uint32_t mtu = 0;
};

struct EndpointSpec {
    std::string id, network_id;
    int netns_fd = -1; // borrowed
    std::string interface_name = "eth0";
    std::string ipv4, ipv6, mac; // wanted, or empty
    std::string hostname;
    Options options;
};

struct EndpointInfo {
    std::string ipv4, ipv4_gateway, ipv6, ipv6_gateway, mac, host_interface;
    uint32_t ipv4_prefix = 0, ipv6_prefix = 0, mtu = 0;
};

struct PortBinding {
    gantry_protocol protocol = GANTRY_TCP;
    std::string host_ip; // "": every address
    uint16_t host_port = 0, host_port_end = 0;
    uint16_t container_port = 0;
};

struct EndpointState {
    EndpointSpec spec;
    EndpointInfo info;
    std::vector<PortBinding> ports;
};

struct NetworkStats {
    uint64_t rx_bytes = 0, rx_packets = 0, rx_errors = 0, rx_dropped = 0;
    uint64_t tx_bytes = 0, tx_packets = 0, tx_errors = 0, tx_dropped = 0;
};

class NetworkDriver {
  public:
    virtual ~NetworkDriver() = default;
    virtual NetworkCaps caps(const Call &call) = 0;
    virtual std::vector<Subnet> create_network(const Call &call, const NetworkSpec &spec) = 0;
    virtual void remove_network(const Call &call, const NetworkSpec &spec) = 0;
    virtual EndpointInfo attach(const Call &call, const EndpointSpec &spec) = 0;
    virtual void detach(const Call &call, const EndpointSpec &spec) = 0;
    virtual std::vector<PortBinding> publish(const Call &call, const std::string &endpoint_id,
                                             const EndpointInfo &info,
                                             const std::vector<PortBinding> &ports) = 0;
    virtual void restore(const Call &call, const std::vector<NetworkSpec> &networks,
                         const std::vector<EndpointState> &endpoints) = 0;
    virtual NetworkStats stats(const Call &call, const EndpointSpec &spec) = 0;
    virtual void clean(const Call &call) = 0;
};

} // namespace gantry

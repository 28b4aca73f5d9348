// Links, addresses and routes through rtnetlink: the bridge in the engine's namespace and one veth pair
// for each endpoint. The container's end is created inside its namespace: moving it there costs 31 ms
// of RCU grace periods, creating it there 0.6 ms.
#pragma once

#include "addresses.h"
#include "netlink.h"

#include <string>
#include <vector>

namespace gantry::bridge {

struct BridgeSpec {
    std::string name, owner; // owner: interface alias that marks the bridge as made by this engine
    Cidr subnet;
    Address gateway;
    std::optional<Cidr> subnet6;
    Address gateway6;
    uint32_t mtu = 0;
    bool isolated = false; // containers cannot talk to each other directly
};

struct VethSpec {
    std::string host_name, inner_name, mac;
    int netns_fd = -1;
    Leases::Pair addresses;
};

/// Name of the host's end, from the endpoint's id.
std::string veth_name(const std::string &endpoint_id);

/// Makes the bridge or brings it in line; kFailedPrecondition when the name is another's. Its index.
int ensure_bridge(const BridgeSpec &spec);
/// Throws kFailedPrecondition when a route of the host that does not lead to `bridge` overlaps.
void check_overlap(const Cidr &subnet, const std::string &bridge);
/// 0 when there is no such link.
int link_index(const std::string &name);
/// Link, addresses, routes, up. Idempotent. On failure nothing stays.
void make_veth(const BridgeSpec &bridge, int bridge_index, const VethSpec &veth);
void delete_link(const std::string &name); // a missing one is fine
/// Deletes the bridge if this engine made it, and our veth ends on it.
void delete_bridge(const BridgeSpec &spec);
/// Ports "gv........" of the bridge (0: links with such a name and no master).
std::vector<std::string> veths_on(int bridge_index);
/// Makes an existing host end a port of the bridge again.
void enslave(const BridgeSpec &bridge, int bridge_index, const std::string &host_name);
/// Counters of the link inside the namespace.
NetworkStats link_stats(int netns_fd, const std::string &name);

/// A rtnetlink socket that works in the namespace of the descriptor.
Netlink netlink_in(int netns_fd);
/// Writes /proc/sys/<path> unless it has the value. False when it had it.
bool set_sysctl(const std::string &path, const std::string &value);

} // namespace gantry::bridge

// See links.h. Every call opens its own socket (5 us), so that nothing here needs a lock.
#include "links.h"

#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <thread>

namespace gantry::bridge {

namespace {

ifinfomsg link_header(int index, unsigned flags) {
    ifinfomsg h{};
    h.ifi_family = AF_UNSPEC;
    h.ifi_index = index;
    h.ifi_flags = h.ifi_change = flags;
    return h;
}

struct Link {
    int index = 0, master = 0;
    std::string name, alias, kind;
    rtnl_link_stats64 stats{};
};

Link parse_link(const uint8_t *data, size_t size) {
    Link link;
    if (size < sizeof(ifinfomsg)) return link;
    ifinfomsg h;
    std::memcpy(&h, data, sizeof h);
    link.index = h.ifi_index;
    for_each_attribute(data + sizeof h, size - sizeof h, [&](const Attribute &a) {
        if (a.type == IFLA_IFNAME) link.name = a.text();
        if (a.type == IFLA_IFALIAS) link.alias = a.text();
        if (a.type == IFLA_MASTER) link.master = static_cast<int>(a.u32());
        if (a.type == IFLA_STATS64) std::memcpy(&link.stats, a.data, std::min(a.size, sizeof link.stats));
        if (a.type == IFLA_LINKINFO)
            for_each_attribute(a.data, a.size, [&](const Attribute &i) {
                if (i.type == IFLA_INFO_KIND) link.kind = i.text();
            });
    });
    return link;
}

Link find_link(Netlink &nl, const std::string &name) {
    if (name.empty() || name.size() >= IFNAMSIZ)
        throw Error(ErrorClass::kInvalidArgument,
                    "look up link " + name.substr(0, 64) + ": 1 to 15 characters wanted");
    Batch b;
    b.message(RTM_GETLINK, 0, link_header(0, 0)).put(IFLA_IFNAME, name);
    Link link;
    const int e = nl.ask(b, [&](uint16_t type, const uint8_t *data, size_t size) {
        if (type == RTM_NEWLINK) link = parse_link(data, size);
    });
    if (e != 0 && e != ENODEV) throw Error::from_errno(e, "look up link " + name);
    return link;
}

void put_address(Batch &b, int index, const Address &address, unsigned prefix) {
    ifaddrmsg h{};
    h.ifa_family = static_cast<uint8_t>(address.family);
    h.ifa_prefixlen = static_cast<uint8_t>(prefix);
    h.ifa_index = static_cast<uint32_t>(index);
    h.ifa_flags = address.family == AF_INET6 ? IFA_F_NODAD : 0; // leased: nobody else can have it
    b.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, h);
    b.put(IFA_LOCAL, address.bytes.data(), address.size());
    b.put(IFA_ADDRESS, address.bytes.data(), address.size());
    if (address.family == AF_INET && prefix < 31) {
        const Address broadcast = v4_address(address.v4() | (prefix == 0 ? ~0u : 0xffffffffu >> prefix));
        b.put(IFA_BROADCAST, broadcast.bytes.data(), broadcast.size());
    }
}

void put_default_route(Batch &b, int index, const Address &gateway) {
    rtmsg h{};
    h.rtm_family = static_cast<uint8_t>(gateway.family);
    h.rtm_table = RT_TABLE_MAIN;
    h.rtm_protocol = RTPROT_BOOT;
    h.rtm_scope = RT_SCOPE_UNIVERSE;
    h.rtm_type = RTN_UNICAST;
    b.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, h);
    b.put(RTA_GATEWAY, gateway.bytes.data(), gateway.size());
    b.put_u32(RTA_OIF, static_cast<uint32_t>(index));
}

void put_port(Batch &b, const std::string &host_name, bool isolated) {
    // By name, as the index of a link that the same batch makes is not known yet.
    b.message(RTM_NEWLINK, 0, link_header(0, 0)).put(IFLA_IFNAME, host_name);
    const size_t info = b.open(IFLA_LINKINFO);
    b.put(IFLA_INFO_SLAVE_KIND, "bridge");
    const size_t data = b.open(IFLA_INFO_SLAVE_DATA);
    // A container that reaches itself through its published port; matters with bridge-nf only.
    b.put_u8(IFLA_BRPORT_MODE, 1);
    b.put_u8(IFLA_BRPORT_ISOLATED, isolated ? 1 : 0);
    b.close(data);
    b.close(info);
}

} // namespace

std::string veth_name(const std::string &endpoint_id) { return "gv" + endpoint_id.substr(0, 8); }

Netlink netlink_in(int netns_fd) {
    // A socket belongs to the namespace of the thread that opens it. The thread dies right after, so no
    // thread of the engine is ever seen in a foreign namespace.
    Fd fd;
    int failed = 0;
    std::thread([&] {
        if (::setns(netns_fd, CLONE_NEWNET) != 0) {
            failed = errno;
            return;
        }
        try {
            fd = Netlink::open_socket(NETLINK_ROUTE);
        } catch (const Error &e) {
            failed = e.errno_value();
        }
    }).join();
    if (failed != 0) throw Error::from_errno(failed, "enter network namespace");
    return Netlink(std::move(fd));
}

bool set_sysctl(const std::string &path, const std::string &value) {
    const std::string file = "/proc/sys/" + path;
    std::string now;
    std::ifstream in(file);
    in >> now;
    if (now == value) return false;
    std::ofstream out(file);
    out << value << std::flush;
    if (!out) throw Error::from_errno(errno != 0 ? errno : EIO, "set sysctl " + path + " to " + value);
    return true;
}

int link_index(const std::string &name) {
    Netlink nl(NETLINK_ROUTE);
    return find_link(nl, name).index;
}

int ensure_bridge(const BridgeSpec &spec) {
    Netlink nl(NETLINK_ROUTE);
    Link link = find_link(nl, spec.name);
    if (link.index != 0 && link.kind != "bridge")
        throw Error(ErrorClass::kFailedPrecondition,
                    "make bridge " + spec.name + ": a link of that name is no bridge",
                    "choose another name in [network.bridge]");
    if (link.index != 0 && !link.alias.empty() && link.alias != spec.owner)
        throw Error(
            ErrorClass::kFailedPrecondition,
            "make bridge " + spec.name + ": it belongs to another engine (" + link.alias + ")",
            "choose another name and subnet in [network.bridge]; when that engine is gone for good (its "
            "root was removed): ip link del " +
                spec.name);
    if (link.index == 0) {
        Batch b;
        b.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_header(0, IFF_UP)).put(IFLA_IFNAME, spec.name);
        // A fixed address: otherwise the bridge's would follow its ports, and ARP entries break.
        const auto mac = parse_mac(mac_of(spec.gateway));
        b.put(IFLA_ADDRESS, mac.data(), mac.size());
        if (spec.mtu != 0) b.put_u32(IFLA_MTU, spec.mtu);
        const size_t info = b.open(IFLA_LINKINFO);
        b.put(IFLA_INFO_KIND, "bridge");
        // Snooping would withhold neighbour solicitations from a new port until its first MLD report,
        // which waits a second or two for duplicate address detection.
        const size_t data = b.open(IFLA_INFO_DATA);
        b.put_u8(IFLA_BR_MCAST_SNOOPING, 0);
        b.close(data);
        b.close(info);
        b.message(RTM_NEWLINK, 0, link_header(0, 0))
            .put(IFLA_IFNAME, spec.name)
            .put(IFLA_IFALIAS, spec.owner);
        nl.run(b, "make bridge " + spec.name);
        link = find_link(nl, spec.name);
    }
    Batch b;
    b.message(RTM_NEWLINK, 0, link_header(link.index, IFF_UP));
    put_address(b, link.index, spec.gateway, spec.subnet.prefix);
    if (spec.subnet6) {
        put_address(b, link.index, spec.gateway6, spec.subnet6->prefix);
        // For forwarded packets the kernel solicits neighbours from a link-local address only, and its
        // own stays tentative for a second or two after the first port came up.
        put_address(b, link.index, parse_address("fe80::1", "link-local address"), 64);
    }
    nl.run(b, "set up bridge " + spec.name);
    return link.index;
}

void check_overlap(const Cidr &subnet, const std::string &bridge) {
    Netlink nl(NETLINK_ROUTE);
    const int own = find_link(nl, bridge).index;
    rtmsg h{};
    h.rtm_family = static_cast<uint8_t>(subnet.base.family);
    Batch b;
    b.message(RTM_GETROUTE, NLM_F_DUMP, h);
    std::string taken;
    nl.ask(b, [&](uint16_t type, const uint8_t *data, size_t size) {
        rtmsg r;
        if (type != RTM_NEWROUTE || size < sizeof r) return;
        std::memcpy(&r, data, sizeof r);
        if (r.rtm_dst_len == 0 || r.rtm_table != RT_TABLE_MAIN || (r.rtm_flags & RTM_F_CLONED) != 0) return;
        Cidr c;
        c.base.family = r.rtm_family;
        c.prefix = r.rtm_dst_len;
        int out = 0;
        for_each_attribute(data + sizeof r, size - sizeof r, [&](const Attribute &a) {
            if (a.type == RTA_DST) std::memcpy(c.base.bytes.data(), a.data, std::min<size_t>(a.size, 16));
            if (a.type == RTA_OIF) out = static_cast<int>(a.u32());
        });
        if (c.overlaps(subnet) && (own == 0 || out != own)) taken = c.text();
    });
    if (!taken.empty())
        throw Error(ErrorClass::kFailedPrecondition,
                    "use subnet " + subnet.text() + ": it overlaps the host's route to " + taken,
                    "choose another subnet in [network.bridge]");
}

void delete_link(const std::string &name) {
    Netlink nl(NETLINK_ROUTE);
    Batch b;
    b.message(RTM_DELLINK, 0, link_header(0, 0)).put(IFLA_IFNAME, name);
    const int e = nl.run(b)[0];
    if (e != 0 && e != ENODEV) throw Error::from_errno(e, "delete link " + name);
}

void enslave(const BridgeSpec &bridge, int bridge_index, const std::string &host_name) {
    Netlink nl(NETLINK_ROUTE);
    Batch b;
    b.message(RTM_NEWLINK, 0, link_header(0, IFF_UP)).put(IFLA_IFNAME, host_name);
    b.put_u32(IFLA_MASTER, static_cast<uint32_t>(bridge_index));
    put_port(b, host_name, bridge.isolated);
    nl.run(b, "attach " + host_name + " to bridge " + bridge.name);
}

void make_veth(const BridgeSpec &bridge, int bridge_index, const VethSpec &veth) {
    if (veth.inner_name.empty() || veth.inner_name.size() >= IFNAMSIZ ||
        veth.inner_name.find_first_of("/: \t\n") != std::string::npos)
        throw Error(ErrorClass::kInvalidArgument,
                    "make link " + veth.inner_name.substr(0, 64) + ": bad interface name");
    Netlink host(NETLINK_ROUTE);
    Netlink inner = netlink_in(veth.netns_fd);
    const auto mac = parse_mac(veth.mac);
    const auto create = [&] {
        Batch b;
        b.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_header(0, IFF_UP))
            .put(IFLA_IFNAME, veth.host_name);
        b.put_u32(IFLA_MASTER, static_cast<uint32_t>(bridge_index));
        if (bridge.mtu != 0) b.put_u32(IFLA_MTU, bridge.mtu);
        const size_t info = b.open(IFLA_LINKINFO);
        b.put(IFLA_INFO_KIND, "veth");
        const size_t data = b.open(IFLA_INFO_DATA);
        const ifinfomsg peer_header = link_header(0, 0);
        const size_t peer = b.open(VETH_INFO_PEER, &peer_header, sizeof peer_header);
        b.put(IFLA_IFNAME, veth.inner_name).put(IFLA_ADDRESS, mac.data(), mac.size());
        if (bridge.mtu != 0) b.put_u32(IFLA_MTU, bridge.mtu);
        b.put_u32(IFLA_NET_NS_FD, static_cast<uint32_t>(veth.netns_fd));
        b.close(peer);
        b.close(data);
        b.close(info);
        put_port(b, veth.host_name, bridge.isolated);
        return host.run(b);
    };
    std::vector<int> result = create();
    Link eth = find_link(inner, veth.inner_name);
    if (result[0] == EEXIST) {
        if (eth.index != 0) { // attached before: bring the rest in line
            enslave(bridge, bridge_index, veth.host_name);
            result.assign(2, 0);
        } else { // left over from a namespace that is dying
            delete_link(veth.host_name);
            result = create();
            eth = find_link(inner, veth.inner_name);
        }
    }
    try {
        if (result[0] != 0)
            throw Error::from_errno(result[0], "make link " + veth.inner_name + " in the container");
        if (result[1] != 0) throw Error::from_errno(result[1], "set up bridge port " + veth.host_name);
        if (eth.index == 0)
            throw Error(ErrorClass::kInternal, "make link " + veth.inner_name + ": it did not appear");
        Batch b;
        b.message(RTM_NEWLINK, 0, link_header(1, IFF_UP)); // lo
        b.message(RTM_NEWLINK, 0, link_header(eth.index, IFF_UP));
        put_address(b, eth.index, veth.addresses.v4, bridge.subnet.prefix);
        put_default_route(b, eth.index, bridge.gateway);
        if (bridge.subnet6 && veth.addresses.v6.family != 0) {
            put_address(b, eth.index, veth.addresses.v6, bridge.subnet6->prefix);
            put_default_route(b, eth.index, bridge.gateway6);
        }
        inner.run(b, "set up " + veth.inner_name + " in the container");
    } catch (...) {
        if (result[0] == 0) try {
                delete_link(veth.host_name);
            } catch (const Error &) { // the first failure is the one to report
            }
        throw;
    }
}

std::vector<std::string> veths_on(int bridge_index) {
    Netlink nl(NETLINK_ROUTE);
    Batch b;
    b.message(RTM_GETLINK, NLM_F_DUMP, link_header(0, 0));
    std::vector<std::string> names;
    nl.ask(b, [&](uint16_t type, const uint8_t *data, size_t size) {
        if (type != RTM_NEWLINK) return;
        const Link link = parse_link(data, size);
        const bool ours = link.kind == "veth" && link.name.size() == 10 && link.name.starts_with("gv") &&
                          link.name.find_first_not_of("0123456789abcdef", 2) == std::string::npos;
        if (ours && link.master == bridge_index) names.push_back(link.name);
    });
    return names;
}

void delete_bridge(const BridgeSpec &spec) {
    Netlink nl(NETLINK_ROUTE);
    const Link link = find_link(nl, spec.name);
    if (link.index == 0 || link.alias != spec.owner) return;
    for (const std::string &name : veths_on(link.index))
        delete_link(name);
    delete_link(spec.name);
}

NetworkStats link_stats(int netns_fd, const std::string &name) {
    Netlink nl = netlink_in(netns_fd);
    const Link link = find_link(nl, name);
    if (link.index == 0) throw Error(ErrorClass::kNotFound, "read counters of " + name + ": no such link");
    const auto &s = link.stats;
    return {s.rx_bytes, s.rx_packets, s.rx_errors, s.rx_dropped,
            s.tx_bytes, s.tx_packets, s.tx_errors, s.tx_dropped};
}

} // namespace gantry::bridge

#include "driver.h"

#include "rtnetlink.h"

#include <net/if.h>
#include <sys/random.h>

using gantry::Call;
using gantry::Error;
using gantry::ErrorClass;
using gantry::Leases4;
using gantry::Subnet4;

namespace {

std::string link_of(const gantry::EndpointSpec &spec) {
    return spec.interface_name.empty() ? "eth0" : spec.interface_name;
}

/// Not made from the address: two links of one parent must not share a MAC, and an address may be leased
/// again while the link that had it still dies with its namespace.
std::array<uint8_t, 6> random_mac() {
    std::array<uint8_t, 6> mac{};
    if (::getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size()))
        throw Error::from_errno(errno, "choose a MAC address");
    mac[0] = 0x02; // local, unicast
    return mac;
}

std::array<uint8_t, 6> parse_mac(const std::string &text, const std::string &doing) {
    unsigned b[6];
    char rest = 0;
    if (text.size() != 17 ||
        std::sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%c", b, b + 1, b + 2, b + 3, b + 4, b + 5, &rest) !=
            6 ||
        (b[0] & 1) != 0)
        throw Error(ErrorClass::kInvalidArgument,
                    doing + ": \"" + text.substr(0, 32) + "\" is no unicast MAC address");
    std::array<uint8_t, 6> mac{};
    for (size_t i = 0; i < mac.size(); ++i)
        mac[i] = static_cast<uint8_t>(b[i]);
    return mac;
}

} // namespace

MacvlanDriver::MacvlanDriver(Settings settings) : settings_(std::move(settings)) {
    if (settings_.parent.empty() || settings_.parent.size() >= IFNAMSIZ)
        throw Error(ErrorClass::kInvalidArgument,
                    "read option parent: \"" + settings_.parent.substr(0, 64) + "\" is no name of a link");
    gantry::NetworkSpec own;
    own.name = "macvlan";
    settle(own); // a table that cannot work is refused when the engine starts
}

gantry::NetworkCaps MacvlanDriver::caps(const Call &) {
    gantry::NetworkCaps caps;
    caps.static_address = true;
    return caps;
}

Leases4::Network MacvlanDriver::settle(const gantry::NetworkSpec &spec) const {
    if (spec.internal)
        throw Error(ErrorClass::kUnsupported,
                    "create network " + spec.name + ": macvlan cannot keep the parent's network out");
    return Leases4::settle(spec, settings_.subnet, settings_.gateway, settings_.range);
}

std::vector<gantry::Subnet> MacvlanDriver::create_network(const Call &call, const gantry::NetworkSpec &spec) {
    const auto network = settle(spec);
    if (::if_nametoindex(settings_.parent.c_str()) == 0)
        throw Error(ErrorClass::kFailedPrecondition,
                    "create network " + spec.name + ": this host has no link " + settings_.parent,
                    "set parent in [network.macvlan] to one of: ip -br link");
    // The subnet that the administrator wrote down is the one on the parent; any other has to be free.
    const bool own = network.subnet.text() == Subnet4::parse(settings_.subnet, "option subnet").text();
    Leases4::check_routes(network.subnet, own ? settings_.parent : "");
    leases_.add_network(call, spec.id, network);
    return {{network.subnet.text(), network.gateway == 0 ? "" : Subnet4::text(network.gateway),
             network.range.text()}};
}

void MacvlanDriver::remove_network(const Call &call, const gantry::NetworkSpec &spec) {
    leases_.remove_network(call, spec.id);
}

gantry::EndpointInfo MacvlanDriver::attach(const Call &call, const gantry::EndpointSpec &spec) {
    const std::string doing = "attach endpoint " + spec.id.substr(0, 12), name = link_of(spec);
    if (spec.netns_fd < 0) throw Error(ErrorClass::kInvalidArgument, doing + ": no namespace");
    if (!spec.ipv6.empty()) throw Error(ErrorClass::kUnsupported, doing + ": this driver has no IPv6");
    if (name.size() >= IFNAMSIZ)
        throw Error(ErrorClass::kInvalidArgument, doing + ": " + name + " is too long");
    const auto mac = spec.mac.empty() ? random_mac() : parse_mac(spec.mac, doing);
    call.check(doing);
    const bool again = leases_.has(call, spec.id);
    const auto lease = leases_.lease(call, spec.network_id, spec.id, spec.ipv4);
    gantry::EndpointInfo info;
    info.ipv4 = Subnet4::text(lease.address);
    info.ipv4_prefix = lease.network.subnet.prefix;
    if (lease.network.gateway != 0) info.ipv4_gateway = Subnet4::text(lease.network.gateway);
    bool made = false;
    Rtnetlink inside(spec.netns_fd);
    try {
        const unsigned parent = ::if_nametoindex(settings_.parent.c_str());
        if (parent == 0)
            throw Error(ErrorClass::kFailedPrecondition,
                        doing + ": this host has no link " + settings_.parent);
        const int error = Rtnetlink().add_macvlan(static_cast<int>(parent), spec.netns_fd, name, mac);
        // The same endpoint again, or one whose attach was killed amid: complete it.
        if (error != 0 && !(error == EEXIST && again))
            throw Error::from_errno(error, doing + ": make " + name + " on " + settings_.parent);
        made = error == 0;
        const Rtnetlink::Link link = inside.find(name);
        inside.add_address(link.index, lease.address, info.ipv4_prefix, doing);
        inside.set_up(link.index, doing);
        if (lease.network.gateway != 0) inside.add_default_route(link.index, lease.network.gateway, doing);
        info.mtu = link.mtu;
        info.mac = link.mac;
    } catch (...) {
        if (made)
            if (const auto link = inside.find(name); link.index != 0) inside.remove(link.index, doing);
        if (!again) leases_.release(call, spec.id);
        throw;
    }
    return info;
}

void MacvlanDriver::detach(const Call &call, const gantry::EndpointSpec &spec) {
    if (spec.netns_fd >= 0 && leases_.has(call, spec.id)) {
        Rtnetlink inside(spec.netns_fd);
        if (const auto link = inside.find(link_of(spec)); link.index != 0)
            inside.remove(link.index, "detach endpoint " + spec.id.substr(0, 12));
    }
    leases_.release(call, spec.id);
}

std::vector<gantry::PortBinding> MacvlanDriver::publish(const Call &, const std::string &,
                                                        const gantry::EndpointInfo &info,
                                                        const std::vector<gantry::PortBinding> &ports) {
    if (!ports.empty())
        throw Error(ErrorClass::kUnsupported, "publish ports: a macvlan container has an address of its own",
                    "reach it at " + info.ipv4);
    return {};
}

void MacvlanDriver::restore(const Call &call, const std::vector<gantry::NetworkSpec> &networks,
                            const std::vector<gantry::EndpointState> &endpoints) {
    for (const auto &spec : networks)
        leases_.add_network(call, spec.id, settle(spec));
    leases_.restore(call, endpoints); // links are where their containers are
}

gantry::NetworkStats MacvlanDriver::stats(const Call &, const gantry::EndpointSpec &spec) {
    const std::string doing = "read counters of endpoint " + spec.id.substr(0, 12);
    if (spec.netns_fd < 0) throw Error(ErrorClass::kNotFound, doing + ": no namespace");
    const auto link = Rtnetlink(spec.netns_fd).find(link_of(spec));
    if (link.index == 0) throw Error(ErrorClass::kNotFound, doing + ": no link " + link_of(spec));
    return link.stats;
}

void MacvlanDriver::clean(const Call &call) { leases_.clear(call); }

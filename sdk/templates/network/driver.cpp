#include "driver.h"

#include <cstdio>
#include <unistd.h>

using gantry::Call;
using gantry::Error;
using gantry::ErrorClass;
using gantry::Leases4;

namespace {

std::string namespace_path(const gantry::EndpointSpec &spec) { // for programs: descriptors are close-on-exec
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(spec.netns_fd);
}

/// Runs a program inside the endpoint's namespace; gives what it printed.
std::string inside(const Call &call, const gantry::EndpointSpec &spec, std::vector<std::string> argv,
                   const std::string &doing) {
    std::vector<std::string> all{"/usr/bin/nsenter", "--net=" + namespace_path(spec), "--"};
    all.insert(all.end(), argv.begin(), argv.end());
    const auto output = gantry::plugin_host().run(call, all);
    if (output.exit_code != 0)
        throw Error(ErrorClass::kInternal, doing + ": " + output.err.substr(0, output.err.find('\n')));
    return output.out;
}

std::string link_of(const gantry::EndpointSpec &spec) {
    return spec.interface_name.empty() ? "eth0" : spec.interface_name;
}

constexpr char kIp[] = "/usr/sbin/ip";

} // namespace

@CLASS@::@CLASS@(std::string subnet) : subnet_(std::move(subnet)) {
    gantry::Subnet4::parse(subnet_, "option subnet");
    for (const char *tool : {kIp, "/usr/bin/nsenter"})
        if (::access(tool, X_OK) != 0)
            throw Error(ErrorClass::kFailedPrecondition, std::string(tool) + " is missing",
                        "install iproute2 and util-linux");
}

gantry::NetworkCaps @CLASS@::caps(const Call &) {
    gantry::NetworkCaps caps;
    caps.internal = caps.multiple = caps.static_address = true;
    return caps;
}

std::vector<gantry::Subnet> @CLASS@::create_network(const Call &call, const gantry::NetworkSpec &spec) {
    auto network = Leases4::settle(spec, subnet_, "", "");
    // The same spec again: it was free then, and what lies there now came later.
    if (!leases_.find_network(call, spec.id)) Leases4::check_routes(network.subnet, "");
    leases_.add_network(call, spec.id, network);
    return {{network.subnet.text(), "", network.range.text()}};
}

void @CLASS@::remove_network(const Call &call, const gantry::NetworkSpec &spec) {
    leases_.remove_network(call, spec.id);
}

gantry::EndpointInfo @CLASS@::attach(const Call &call, const gantry::EndpointSpec &spec) {
    const std::string doing = "attach endpoint " + spec.id.substr(0, 12), link = link_of(spec);
    if (spec.netns_fd < 0) throw Error(ErrorClass::kInvalidArgument, doing + ": no namespace");
    if (!spec.ipv6.empty()) throw Error(ErrorClass::kUnsupported, doing + ": this driver has no IPv6");
    const auto lease = leases_.lease(call, spec.network_id, spec.id, spec.ipv4);
    gantry::EndpointInfo info;
    info.ipv4 = gantry::Subnet4::text(lease.address);
    info.ipv4_prefix = lease.network.subnet.prefix;
    info.mac = spec.mac.empty() ? Leases4::mac_of(lease.address) : spec.mac;
    info.mtu = 1500;
    try {
        // A second attach finds the link and changes nothing; one that was killed amid is completed.
        if (inside(call, spec, {kIp, "-br", "link", "show", "type", "veth"}, doing).find(link + "@") == std::string::npos)
            inside(call, spec, {kIp, "link", "add", link, "type", "veth", "peer", "name", "nowhere"}, doing);
        inside(call, spec, {kIp, "link", "set", "nowhere", "up"}, doing);
        inside(call, spec, {kIp, "link", "set", link, "address", info.mac, "up"}, doing);
        inside(call, spec,
               {kIp, "addr", "replace", info.ipv4 + "/" + std::to_string(info.ipv4_prefix), "dev", link}, doing);
    } catch (...) {
        detach(Call(call.raw()), spec);
        throw;
    }
    return info;
}

void @CLASS@::detach(const Call &call, const gantry::EndpointSpec &spec) {
    if (spec.netns_fd >= 0 && leases_.has(call, spec.id))
        gantry::plugin_host().run(call, {"/usr/bin/nsenter", "--net=" + namespace_path(spec), "--", kIp,
                                         "link", "delete", link_of(spec)});
    leases_.release(call, spec.id);
}

std::vector<gantry::PortBinding> @CLASS@::publish(const Call &, const std::string &,
                                                  const gantry::EndpointInfo &,
                                                  const std::vector<gantry::PortBinding> &ports) {
    if (!ports.empty())
        throw Error(ErrorClass::kUnsupported, "publish ports: nothing leads to a container of this network");
    return {};
}

void @CLASS@::restore(const Call &call, const std::vector<gantry::NetworkSpec> &networks,
                      const std::vector<gantry::EndpointState> &endpoints) {
    for (const auto &spec : networks)
        leases_.add_network(call, spec.id, Leases4::settle(spec, subnet_, "", ""));
    leases_.restore(call, endpoints); // links are where their containers are
}

gantry::NetworkStats @CLASS@::stats(const Call &call, const gantry::EndpointSpec &spec) {
    const std::string doing = "read counters of endpoint " + spec.id.substr(0, 12);
    if (spec.netns_fd < 0) throw Error(ErrorClass::kNotFound, doing + ": no namespace");
    const std::string text = inside(call, spec, {"/bin/cat", "/proc/net/dev"}, doing);
    const size_t at = text.find(link_of(spec) + ":");
    gantry::NetworkStats out;
    unsigned long long n[12] = {};
    if (at == std::string::npos ||
        std::sscanf(text.c_str() + at + link_of(spec).size() + 1,
                    "%llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu", n, n + 1, n + 2, n + 3, n + 4,
                    n + 5, n + 6, n + 7, n + 8, n + 9, n + 10, n + 11) != 12)
        throw Error(ErrorClass::kNotFound, doing + ": no link " + link_of(spec));
    out.rx_bytes = n[0], out.rx_packets = n[1], out.rx_errors = n[2], out.rx_dropped = n[3];
    out.tx_bytes = n[8], out.tx_packets = n[9], out.tx_errors = n[10], out.tx_dropped = n[11];
    return out;
}

void @CLASS@::clean(const Call &call) { leases_.clear(call); }

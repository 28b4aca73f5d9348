// <gantry/network.h>, slot by slot, on a host of the case's own.
#include "network_bench.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

void capabilities(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.caps();
    // A caller of an older minor has a shorter struct: nothing beyond it may be touched.
    struct {
        gantry_network_caps caps;
        unsigned char guard[64];
    } narrow;
    memset(&narrow, 0xa5, sizeof narrow);
    narrow.caps.struct_size = offsetof(gantry_network_caps, multiple);
    const RecordedCall call;
    call.require_ok(bench.table<gantry_network_v1>().caps(bench.driver(), call.raw(), &narrow.caps), "caps");
    const auto *bytes = reinterpret_cast<const unsigned char *>(&narrow);
    for (size_t i = offsetof(gantry_network_caps, multiple); i < sizeof narrow; ++i)
        require(bytes[i] == 0xa5, "caps: wrote beyond the caller's struct_size");
}

bool contains(const std::string &cidr, const std::string &address) {
    const size_t slash = cidr.find('/');
    in_addr net{}, one{};
    if (slash == cidr.npos || inet_pton(AF_INET, cidr.substr(0, slash).c_str(), &net) != 1 ||
        inet_pton(AF_INET, address.c_str(), &one) != 1)
        return false;
    const int bits = atoi(cidr.c_str() + slash + 1);
    const uint32_t mask = bits == 0 ? 0 : ~uint32_t(0) << (32 - bits);
    return ((ntohl(net.s_addr) ^ ntohl(one.s_addr)) & mask) == 0;
}

std::string state_of(const Container &container) {
    std::string out;
    inside(container.netns.get(), [&] { out = network_state(); });
    return out;
}

bool mentions(const std::string &text, const std::string &what) { return text.find(what) != text.npos; }

void networks_come_and_go(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    const std::string before = network_state();
    const NetworkSpec asked = bench.network;
    bench.make();
    const std::vector<Subnet> first = bench.network.subnets;
    for (const Subnet &subnet : first)
        require(subnet.cidr.find(':') != subnet.cidr.npos || contains(subnet.cidr, subnet.gateway) ||
                    subnet.gateway.empty(),
                "create_network: the gateway " + subnet.gateway + " is not in " + subnet.cidr);
    std::vector<Subnet> again;
    const RecordedCall call;
    call.require_ok(bench.create_network(call, asked, again), "create_network of the same spec again");
    require(again.size() == first.size() && again[0].cidr == first[0].cidr &&
                again[0].gateway == first[0].gateway,
            "create_network: the same spec settles another subnet the second time");
    const RecordedCall one, two;
    one.require_ok(bench.remove_network(one, bench.network), "remove_network");
    two.require_ok(bench.remove_network(two, bench.network), "remove_network of a removed network");
    require(network_state() == before, "remove_network leaves on the host:\n" + network_state());
    bench.make();
}

void bad_words(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    const std::string before = network_state();
    const auto refuse = [&](const std::string &cidr, std::initializer_list<gantry_status> classes) {
        NetworkSpec spec = bench.network;
        spec.subnets = {{cidr, "", ""}};
        std::vector<Subnet> settled;
        const RecordedCall call;
        call.require_class(bench.create_network(call, spec, settled), classes, "create_network of " + cidr);
        require(network_state() == before,
                "create_network: refused, and the host has changed:\n" + network_state());
    };
    refuse("nonsense", {GANTRY_INVALID_ARGUMENT});
    refuse("10.0.0.0/99", {GANTRY_INVALID_ARGUMENT});
    refuse("192.0.2.0/24", {GANTRY_FAILED_PRECONDITION}); // a route of the host
    bench.make();
    Container container;
    container.state.spec = endpoint_spec(bench, 1, container.netns.get());
    EndpointInfo info;
    EndpointSpec stray = container.state.spec, wrong = container.state.spec;
    stray.network_id = std::string(64, 'f');
    wrong.ipv4 = "not an address";
    const std::string inner = state_of(container);
    const RecordedCall first, second;
    first.require_class(bench.attach(first, stray, info), {GANTRY_NOT_FOUND}, "attach to an unknown network");
    second.require_class(bench.attach(second, wrong, info), {GANTRY_INVALID_ARGUMENT, GANTRY_UNSUPPORTED},
                         "attach with the address \"not an address\"");
    require(state_of(container) == inner,
            "attach: refused, and the namespace has changed:\n" + state_of(container));
}

void attaches(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    Container one = bench.join(1), two = bench.join(2);
    const EndpointInfo &info = one.state.info;
    require(!info.ipv4.empty() || !info.ipv6.empty(), "attach: no address was settled");
    require(info.ipv4.empty() || info.ipv4_prefix > 0, "attach: an address without a prefix length");
    require(info.ipv4.empty() || contains(bench.network.subnets[0].cidr, info.ipv4) ||
                bench.network.subnets.size() > 1,
            "attach: the address " + info.ipv4 + " is not in " + bench.network.subnets[0].cidr);
    require(info.ipv4 != two.state.info.ipv4 || info.ipv4.empty(),
            "attach: two endpoints have the address " + info.ipv4);
    require(info.mac != two.state.info.mac, "attach: two endpoints have the MAC address " + info.mac);
    const std::string state = state_of(one);
    require(mentions(state, "link eth0 up"), "attach: the link eth0 is not up inside:\n" + state);
    require(info.ipv4.empty() || mentions(state, "address " + info.ipv4 + " on eth0"),
            "attach: " + info.ipv4 + " is not on eth0 inside:\n" + state);
    require(info.ipv4_gateway.empty() || mentions(state, "route 0.0.0.0 via " + info.ipv4_gateway),
            "attach: there is no default route through " + info.ipv4_gateway + " inside:\n" + state);
    EndpointInfo again;
    const RecordedCall call;
    call.require_ok(bench.attach(call, one.state.spec, again), "attach of the same endpoint again");
    require(again.ipv4 == info.ipv4 && again.ipv6 == info.ipv6 && again.mac == info.mac,
            "attach: the same endpoint got " + info.ipv4 + " and then " + again.ipv4);
    require(state_of(one) == state, "attach of the same endpoint again changed:\n" + state_of(one));
    bench.part(one);
    require(fcntl(one.netns.get(), F_GETFD) >= 0,
            "detach: the caller's descriptor of the namespace was closed");
}

void wanted_addresses(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    if (!bench.caps().static_address) throw Skipped("the driver has no static addresses");
    bench.make();
    const Container one = bench.join(1);
    Container two;
    two.state.spec = endpoint_spec(bench, 2, two.netns.get());
    two.state.spec.ipv4 = one.state.info.ipv4;
    const std::string host = network_state(), inner = state_of(two);
    const RecordedCall call;
    call.require_class(bench.attach(call, two.state.spec, two.state.info), {GANTRY_ALREADY_EXISTS},
                       "attach with an address that is taken");
    require(network_state() == host && state_of(two) == inner, "attach: refused, and something stays");
    bench.part(one);
    const RecordedCall second;
    second.require_ok(bench.attach(second, two.state.spec, two.state.info), "attach with a free address");
    require(two.state.info.ipv4 == two.state.spec.ipv4,
            "attach: " + two.state.info.ipv4 + " was given instead of the wanted " + two.state.spec.ipv4);
}

void small_pools(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.network.subnets = {{"198.18.7.0/29", "", ""}};
    {
        std::vector<Subnet> settled;
        const RecordedCall call;
        const gantry_status status = bench.create_network(call, bench.network, settled);
        if (status == GANTRY_UNSUPPORTED) throw Skipped("the driver takes no subnets");
        call.require_ok(status, "create_network");
        bench.network.subnets = settled;
    }
    std::vector<Container> all;
    std::set<std::string> seen;
    for (int n = 0;; ++n) {
        require(n < 8, "attach: a pool of at most 6 addresses had " + std::to_string(n));
        Container next;
        next.state.spec = endpoint_spec(bench, n, next.netns.get());
        const std::string host = network_state(), inner = state_of(next);
        const RecordedCall call;
        const gantry_status status = bench.attach(call, next.state.spec, next.state.info);
        if (status != GANTRY_OK) {
            call.require_class(status, {GANTRY_NO_SPACE}, "attach with the pool used up");
            require(network_state() == host && state_of(next) == inner,
                    "attach: there is no address, and something stays");
            break;
        }
        require(seen.insert(next.state.info.ipv4).second, "attach: " + next.state.info.ipv4 + " twice");
        require(next.state.info.ipv4 != "198.18.7.0" && next.state.info.ipv4 != "198.18.7.7" &&
                    next.state.info.ipv4 != bench.network.subnets[0].gateway,
                "attach: " + next.state.info.ipv4 + " is the network, its broadcast or its gateway");
        all.push_back(std::move(next));
    }
    require(all.size() >= 4, "attach: a pool of 8 addresses had only " + std::to_string(all.size()));
    bench.part(all[1]);
    bench.part(all[1]); // idempotent
    require(!mentions(state_of(all[1]), all[1].state.info.ipv4),
            "detach: the address stays inside the namespace:\n" + state_of(all[1]));
    const Container last = bench.join(100);
    require(last.state.info.ipv4 == all[1].state.info.ipv4, "attach: not the one free address");
}

void leases_last(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    const Container one = bench.join(1);
    for (int i = 0; i < 2; ++i) {
        bench.reopen();
        bench.recover({&one});
        EndpointInfo again;
        const RecordedCall call;
        call.require_ok(bench.attach(call, one.state.spec, again), "attach after a restart");
        require(again.ipv4 == one.state.info.ipv4,
                "a lease was " + one.state.info.ipv4 + " and is " + again.ipv4 + " after a restart");
        const Container other = bench.join(2 + i);
        require(other.state.info.ipv4 != one.state.info.ipv4, "a lease was given twice after a restart");
        bench.part(other);
    }
}

bool open_port(const NetworkBench &, uint16_t port, const UniqueFd &server) {
    return reaches("192.0.2.1", port, server);
}

void need_ports(NetworkBench &bench) {
    if (!bench.caps().ports) throw Skipped("the driver publishes no ports");
}

void publishes(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    need_ports(bench);
    bench.make();
    Container one = bench.join(1);
    const UniqueFd web = listen_in(one.netns.get(), 80), more = listen_in(one.netns.get(), 81);
    PortBinding any = published(0, 81);
    PortBinding range = published(18090, 80);
    range.host_port_end = 18099;
    bench.settle(one, {published(18080, 80), any, range});
    const std::vector<PortBinding> got = one.state.ports;
    require(got.size() == 3, "publish: " + std::to_string(got.size()) + " ports settled of 3");
    for (const PortBinding &port : got)
        require(port.host_port != 0 && port.host_port == port.host_port_end,
                "publish: port " + std::to_string(port.container_port) + " is not settled");
    require(got[0].container_port == 80 && got[0].host_port == 18080 && got[1].container_port == 81 &&
                got[2].host_port >= 18090 && got[2].host_port <= 18099,
            "publish: the settled ports are not those asked for, in order");
    require(open_port(bench, 18080, web), "publish: port 18080 does not lead to the container");
    require(open_port(bench, got[1].host_port, more), "publish: a free port does not lead to the container");
    require(open_port(bench, got[2].host_port, web),
            "publish: a port of a range does not lead to the container");
    bench.settle(one, {published(18081, 81), published(18080, 80)});
    require(open_port(bench, 18081, more) && open_port(bench, 18080, web),
            "publish: a new set does not lead to the container");
    require(!open_port(bench, got[2].host_port, web), "publish: a port of the set before still leads there");
    bench.settle(one, {});
    require(!open_port(bench, 18080, web), "publish of nothing: a port still leads to the container");
    bench.settle(one, {published(18080, 80)});
    bench.part(one);
    Container two = bench.join(2); // detach has given the port back
    bench.settle(two, {published(18080, 80)});
}

void conflicts(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    need_ports(bench);
    bench.make();
    Container one = bench.join(1), two = bench.join(2);
    const UniqueFd first = listen_in(one.netns.get(), 80), second = listen_in(two.netns.get(), 80);
    bench.settle(one, {published(18080, 80)});
    bench.settle(two, {published(18070, 80)});
    const auto refuse = [&](uint16_t port, const char *holder) {
        std::vector<PortBinding> out;
        const RecordedCall call;
        call.require_class(bench.publish(call, two, {published(18071, 80), published(port, 80)}, out),
                           {GANTRY_ALREADY_EXISTS},
                           std::string("publish of a port that is held by ") + holder);
        require(mentions(call.message(), std::to_string(port)),
                "publish: the message does not name port " + std::to_string(port) + ": " + call.message());
        require(!open_port(bench, 18071, second), "publish: refused, and one port of the set is there");
        require(open_port(bench, 18070, second), "publish: refused, and the set before is lost");
    };
    refuse(18080, "another endpoint");
    const UniqueFd host = [] {
        const UniqueFd here(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        return listen_in(here.get(), 18082);
    }();
    refuse(18082, "a program of the host");
    require(open_port(bench, 18080, first), "publish: another endpoint's port is lost");
}

void restores(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    const bool ports = bench.caps().ports;
    Container kept = bench.join(1), lost = bench.join(2);
    const UniqueFd web = listen_in(kept.netns.get(), 80), other = listen_in(lost.netns.get(), 80);
    if (ports) {
        bench.settle(kept, {published(18080, 80)});
        bench.settle(lost, {published(18081, 80)});
    }
    const std::string inner = state_of(kept);
    bench.reopen();
    bench.recover({&kept}); // nobody knows `lost` any more
    require(state_of(kept) == inner, "restore changed a container's links:\n" + state_of(kept));
    require(lost.state.info.host_interface.empty() ||
                !mentions(network_state(), "link " + lost.state.info.host_interface + " "),
            "restore: the link of an unknown endpoint stays:\n" + network_state());
    if (ports) {
        require(open_port(bench, 18080, web), "restore: a port does not lead to its container any more");
        require(!open_port(bench, 18081, other), "restore: the port of an unknown endpoint stays");
        Container next = bench.join(3);
        bench.settle(next, {published(18081, 80)}); // free again
        // A port that the engine knows of and nothing else does: made anew.
        Container grown = bench.join(4);
        const UniqueFd server = listen_in(grown.netns.get(), 80);
        grown.state.ports = {published(18084, 80)};
        bench.reopen();
        bench.recover({&kept, &next, &grown});
        require(open_port(bench, 18084, server), "restore: a missing port did not return");
    }
}

std::string rules() {
    std::string out;
    if (FILE *program =
            popen("nft -s list ruleset 2>/dev/null; iptables-save 2>/dev/null | grep -v '^#'", "re")) {
        char buffer[4096];
        for (size_t n; (n = fread(buffer, 1, sizeof buffer, program)) > 0;)
            out.append(buffer, n);
        pclose(program);
    }
    return out;
}

void leaves_others_alone(const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    // A bridge, a rule and a port of another program; without nft(8) the rule is left out.
    const bool nft =
        system("nft 'add table inet foreign; add chain inet foreign c { type filter hook input "
               "priority 5; policy accept; }; add rule inet foreign c counter' 2>/dev/null") == 0;
    const std::string links = network_state(), before = rules();
    NetworkBench bench(subject, dir);
    const auto look = [&](const char *when) {
        const std::string now = network_state();
        for (size_t at = 0, end; at < links.size(); at = end + 1) {
            end = links.find('\n', at);
            require(mentions(now, links.substr(at, end - at)),
                    std::string(when) + ": \"" + links.substr(at, end - at) + "\" of the host is gone");
        }
        require(!nft || mentions(rules(), "table inet foreign"),
                std::string(when) + ": a foreign table is gone");
    };
    bench.make();
    Container one = bench.join(1);
    if (bench.caps().ports) bench.settle(one, {published(18080, 80)});
    look("attach");
    bench.reopen();
    bench.recover({&one});
    look("restore");
    const RecordedCall call;
    call.require_ok(bench.clean(call), "clean");
    look("clean");
    require(network_state() == links, "clean leaves links, addresses or routes:\n" + network_state());
    require(rules() == before, "clean leaves rules:\n" + rules());
    const RecordedCall again;
    again.require_ok(bench.clean(again), "clean of what is clean");
}

void counts_traffic(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    const Container one = bench.join(1), two = bench.join(2);
    NetworkStats before, after;
    const RecordedCall first, second;
    const gantry_status status = bench.stats(first, one.state.spec, before);
    if (status == GANTRY_UNSUPPORTED) throw Skipped("the driver counts nothing");
    first.require_ok(status, "stats");
    if (two.state.info.ipv4.empty()) throw Skipped("the network has no IPv4");
    inside(one.netns.get(), [&] {
        const UniqueFd any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(9);
        inet_pton(AF_INET, two.state.info.ipv4.c_str(), &to.sin_addr);
        for (int i = 0; i < 20; ++i)
            sendto(any.get(), "x", 1, 0, reinterpret_cast<sockaddr *>(&to), sizeof to);
    });
    second.require_ok(bench.stats(second, one.state.spec, after), "stats");
    require(after.tx_packets > before.tx_packets && after.tx_bytes > before.tx_bytes,
            "stats: what a container sends is not counted as sent");
}

void concurrency(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    const bool ports = bench.caps().ports;
    std::vector<Container> all(24);
    in_parallel(8, [&](int thread) {
        for (int i = 0; i < 3; ++i) {
            Container &mine = all[size_t(thread) * 3 + size_t(i)];
            mine.state.spec = endpoint_spec(bench, thread * 3 + i, mine.netns.get());
            const RecordedCall call;
            call.require_ok(bench.attach(call, mine.state.spec, mine.state.info), "attach in parallel");
            if (ports) bench.settle(mine, {published(0, 80)});
            if (i == 2) bench.part(mine);
        }
    });
    std::set<std::string> addresses;
    std::set<uint16_t> taken;
    for (size_t i = 0; i < all.size(); ++i) {
        if (i % 3 == 2) continue;
        require(addresses.insert(all[i].state.info.ipv4).second,
                "attach in parallel gave " + all[i].state.info.ipv4 + " twice");
        require(mentions(state_of(all[i]), all[i].state.info.ipv4 + " on eth0"),
                "attach in parallel: " + all[i].state.info.ipv4 + " is not in its own namespace");
        for (const PortBinding &port : all[i].state.ports)
            require(taken.insert(port.host_port).second,
                    "publish in parallel gave port " + std::to_string(port.host_port) + " twice");
    }
}

void cancellation(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    Container one, two;
    one.state.spec = endpoint_spec(bench, 1, one.netns.get());
    two.state.spec = endpoint_spec(bench, 2, two.netns.get());
    const std::string host = network_state();
    RecordedCall cancelled, late;
    cancelled.cancel_at_once();
    late.deadline_passed();
    const auto judge = [&](const RecordedCall &call, Container &who, gantry_status word, const char *what) {
        const gantry_status status = bench.attach(call, who.state.spec, who.state.info);
        call.require_class(status, {word, GANTRY_OK}, what);
        if (status == GANTRY_OK)
            require(mentions(state_of(who), "link eth0 up"),
                    std::string(what) + ": reported done, and is not");
        else
            require(!mentions(state_of(who), "eth0") && network_state() == host,
                    std::string(what) + ": given up, and something stays");
        bench.part(who);
    };
    judge(cancelled, one, GANTRY_CANCELLED, "attach, cancelled");
    judge(late, two, GANTRY_DEADLINE, "attach, after its deadline");
}

void calls_leave_nothing(const Subject &subject, const std::string &dir) {
    NetworkBench bench(subject, dir);
    bench.make();
    const bool ports = bench.caps().ports;
    Container one;
    const auto round = [&](int n) {
        one.state.spec = endpoint_spec(bench, n, one.netns.get());
        const RecordedCall call;
        call.require_ok(bench.attach(call, one.state.spec, one.state.info), "attach");
        if (ports) bench.settle(one, {published(18080, 80), published(0, 81)});
        bench.part(one);
    };
    round(0); // what stays for the network's life
    const Footprint before = Footprint::take();
    for (int i = 1; i <= 5; ++i)
        round(i);
    const std::string left = Footprint::take().changes_since(before);
    require(left.empty(), left);
    require(!mentions(state_of(one), "eth0"), "detach leaves the link inside:\n" + state_of(one));
}

void clean_ends_everything(const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    const Footprint before = Footprint::take();
    {
        NetworkBench bench(subject, dir);
        bench.make();
        Container one = bench.join(1);
        if (bench.caps().ports) bench.settle(one, {published(18080, 80)});
        const RecordedCall call;
        call.require_ok(bench.clean(call), "clean");
    }
    // A helper is told to end and does so on its own.
    std::string left;
    for (int i = 0; i < 200; ++i) {
        left = Footprint::take().changes_since(before);
        if (left.find("process") == left.npos) break;
        usleep(10'000);
    }
    require(left.empty(), "after clean and destroy: " + left);
}

} // namespace

std::vector<Case> network_cases() {
    constexpr int kKind = GANTRY_KIND_NETWORK;
    return {
        {"network.caps", "capabilities keep to the caller's struct", kKind, true, capabilities},
        {"network.create", "a network is made once and removed twice", kKind, true, networks_come_and_go},
        {"network.errors", "what cannot be is refused with its class and changes nothing", kKind, true,
         bad_words},
        {"network.attach", "an endpoint has link, address and routes, the same each time", kKind, true,
         attaches},
        {"network.address", "a wanted address is given, or is said to be taken", kKind, true,
         wanted_addresses},
        {"network.pool", "a pool is used up, and detach gives a lease back", kKind, true, small_pools},
        {"network.lease", "a lease outlives restarts of the engine", kKind, true, leases_last},
        {"network.publish", "published ports lead to the container and are replaced as a set", kKind, true,
         publishes},
        {"network.conflicts", "a port that is held is named, and the set before stays", kKind, true,
         conflicts},
        {"network.restore", "restore brings back what is missing and takes leftovers away", kKind, true,
         restores},
        {"network.foreign", "nothing of another program is touched, nothing of its own stays", kKind, true,
         leaves_others_alone},
        {"network.stats", "traffic is counted as the container sees it", kKind, true, counts_traffic},
        {"network.threads", "eight threads on different endpoints do not disturb each other", kKind, true,
         concurrency},
        {"network.cancel", "a cancelled attach is whole or leaves nothing", kKind, true, cancellation},
        {"network.leaks", "calls leave no descriptor, mount, process or link", kKind, true,
         calls_leave_nothing},
        {"network.clean", "clean and destroy end helpers and links", kKind, true, clean_ends_everything},
    };
}

} // namespace gantry::kit

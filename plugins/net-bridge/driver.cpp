// See driver.h. Order of every change: lease, link, rule on the way up; rule, hold, lease on the way
// down. What a crash leaves behind is known to nobody, and restore() takes it away.
#include "driver.h"

#include "addresses.h"
#include "conntrack.h"
#include "firewall.h"
#include "links.h"
#include "ports.h"

#include <algorithm>
#include <linux/if_link.h>
#include <mutex>
#include <netinet/in.h>
#include <random>
#include <set>
#include <shared_mutex>

namespace gantry::bridge {

namespace {

constexpr size_t kMaxHolds = 4096; // more published ports than this are checked, but not held
constexpr size_t kMaxPorts = 4096; // of one endpoint
constexpr unsigned kFirstSubnet = 88, kLastSubnet = 127; // 10.N.0.0/16

struct Published {
    PortBinding binding;
    std::vector<Forward> forwards;
    bool relayed = false;
    std::vector<Fd> holds;
};

class BridgeDriver final : public NetworkDriver {
  public:
    BridgeDriver(const Environment &env, const Settings &settings)
        : env_(env), settings_(settings), random_range_(parse_port_range(settings.port_range)),
          firewall_(env.engine_id, settings.masquerade),
          portd_(env.run, env.libexec.empty() ? "" : env.libexec + "/gantry-portd") {
        bridge_.name = settings.name;
        bridge_.owner = "gantry:" + env.engine_id;
        bridge_.mtu = settings.mtu;
        bridge_.isolated = !settings.icc;
        if (settings.name.empty() || settings.name.size() > 15 ||
            settings.name.find_first_not_of(
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != std::string::npos)
            throw Error(ErrorClass::kInvalidArgument, "configure bridge: bad name \"" + settings.name + "\"",
                        "1 to 15 letters, digits, '.', '_', '-'");
        if (settings.subnet.empty() && !settings.gateway.empty())
            throw Error(ErrorClass::kInvalidArgument,
                        "configure bridge: gateway " + settings.gateway + " without a subnet",
                        "set subnet in [network.bridge] as well");
        configure(default_subnets(kFirstSubnet));
    }

    NetworkCaps caps(const Call &) override {
        NetworkCaps c;
        c.ports = c.static_address = true;
        c.ipv6 = bridge_.subnet6.has_value();
        return c;
    }

    std::vector<Subnet> create_network(const Call &call, const NetworkSpec &spec) override {
        const std::unique_lock lock(network_mutex_);
        if (!network_.empty() && network_ != spec.id)
            throw Error(ErrorClass::kUnsupported,
                        "create network " + spec.name + ": this driver has one network only");
        set_up(call, spec);
        if (!firewall_.present()) firewall_.rebuild(bridge_, {});
        firewall_.pass_foreign_forward(call, bridge_.name, bridge_.subnet6.has_value(), false);
        std::vector<Subnet> out{{bridge_.subnet.text(), bridge_.gateway.text(), ""}};
        if (bridge_.subnet6) out.push_back({bridge_.subnet6->text(), bridge_.gateway6.text(), ""});
        return out;
    }

    void remove_network(const Call &call, const NetworkSpec &spec) override {
        const std::unique_lock lock(network_mutex_);
        if (!network_.empty() && network_ != spec.id) return;
        firewall_.remove_foreign(call);
        firewall_.remove();
        delete_bridge(bridge_);
        network_.clear();
        leases_.reset();
        bridge_index_ = 0;
    }

    EndpointInfo attach(const Call &call, const EndpointSpec &spec) override {
        const std::shared_lock lock(network_mutex_);
        need_network(spec.network_id, "attach endpoint " + spec.id.substr(0, 12));
        if (spec.id.size() < 8 || spec.netns_fd < 0)
            throw Error(ErrorClass::kInvalidArgument,
                        "attach endpoint " + spec.id.substr(0, 12) + ": no namespace");
        if (!spec.mac.empty()) parse_mac(spec.mac);
        VethSpec veth;
        veth.addresses = leases_->lease(call, spec.id, spec.ipv4, spec.ipv6);
        veth.host_name = veth_name(spec.id);
        veth.inner_name = spec.interface_name.empty() ? "eth0" : spec.interface_name;
        veth.mac = spec.mac.empty() ? mac_of(veth.addresses.v4) : spec.mac;
        veth.netns_fd = spec.netns_fd;
        try {
            make_veth(bridge_, bridge_index_, veth);
            firewall_.pass_foreign_forward(call, bridge_.name, bridge_.subnet6.has_value(), true);
        } catch (...) {
            leases_->release(call, spec.id);
            throw;
        }
        EndpointInfo info;
        info.ipv4 = veth.addresses.v4.text();
        info.ipv4_prefix = bridge_.subnet.prefix;
        info.ipv4_gateway = bridge_.gateway.text();
        if (bridge_.subnet6 && veth.addresses.v6.family != 0) {
            info.ipv6 = veth.addresses.v6.text();
            info.ipv6_prefix = bridge_.subnet6->prefix;
            info.ipv6_gateway = bridge_.gateway6.text();
        }
        info.mac = veth.mac;
        info.host_interface = veth.host_name;
        info.mtu = bridge_.mtu != 0 ? bridge_.mtu : 1500;
        return info;
    }

    void detach(const Call &call, const EndpointSpec &spec) override {
        unpublish(spec.id);
        const std::shared_lock lock(network_mutex_);
        // Without a namespace the link dies with it: deleting it here would cost 27 ms.
        if (spec.netns_fd >= 0 && spec.id.size() >= 8) delete_link(veth_name(spec.id));
        if (leases_) leases_->release(call, spec.id);
    }

    std::vector<PortBinding> publish(const Call &call, const std::string &endpoint_id,
                                     const EndpointInfo &info,
                                     const std::vector<PortBinding> &ports) override;
    void restore(const Call &call, const std::vector<NetworkSpec> &networks,
                 const std::vector<EndpointState> &endpoints) override;

    NetworkStats stats(const Call &, const EndpointSpec &spec) override {
        if (spec.netns_fd < 0)
            throw Error(ErrorClass::kNotFound,
                        "read counters of endpoint " + spec.id.substr(0, 12) + ": no namespace");
        return link_stats(spec.netns_fd, spec.interface_name.empty() ? "eth0" : spec.interface_name);
    }

    void clean(const Call &call) override {
        {
            const std::lock_guard lock(ports_mutex_);
            portd_.quit();
            published_.clear();
            holds_ = 0;
        }
        const std::unique_lock lock(network_mutex_);
        firewall_.remove_foreign(call);
        firewall_.remove();
        delete_bridge(bridge_);
        if (leases_) leases_->settle(call, {});
        leases_.reset();
        network_.clear();
        bridge_index_ = 0;
    }

  private:
    std::vector<Subnet> default_subnets(unsigned n) const {
        const std::string subnet =
            settings_.subnet.empty() ? "10." + std::to_string(n) + ".0.0/16" : settings_.subnet;
        std::vector<Subnet> out{{subnet, settings_.gateway, ""}};
        if (!settings_.subnet6.empty()) out.push_back({settings_.subnet6, "", ""});
        return out;
    }

    void configure(const std::vector<Subnet> &subnets) {
        BridgeSpec b = bridge_;
        b.subnet = {};
        b.subnet6.reset();
        Cidr range{};
        for (const Subnet &s : subnets) {
            const Cidr c = parse_cidr(s.cidr, "subnet");
            const bool v6 = c.base.family == AF_INET6;
            if (v6 ? b.subnet6.has_value() : b.subnet.base.family != 0)
                throw Error(ErrorClass::kUnsupported, "use subnet " + s.cidr + ": one for each family only");
            if (c.prefix > (v6 ? 126u : 30u) || c.prefix < 8)
                throw Error(ErrorClass::kInvalidArgument, "use subnet " + s.cidr + ": no useful size");
            const Address gateway =
                s.gateway.empty() ? nth_address(c, 1) : parse_address(s.gateway, "gateway");
            if (!c.contains(gateway) || gateway == c.base)
                throw Error(ErrorClass::kInvalidArgument,
                            "use gateway " + s.gateway + ": not in subnet " + s.cidr);
            if (v6) {
                b.subnet6 = c;
                b.gateway6 = gateway;
            } else {
                b.subnet = c;
                b.gateway = gateway;
                range = s.range.empty() ? c : parse_cidr(s.range, "address range");
                if (!c.contains(range.base) || range.prefix < c.prefix)
                    throw Error(ErrorClass::kInvalidArgument,
                                "use range " + s.range + ": not in subnet " + s.cidr);
            }
        }
        if (b.subnet.base.family == 0)
            throw Error(ErrorClass::kInvalidArgument, "configure bridge: no IPv4 subnet");
        bridge_ = b;
        range_ = range;
    }

    static bool is_free(const Cidr &subnet, const std::string &bridge) {
        try {
            check_overlap(subnet, bridge);
        } catch (const Error &e) {
            if (e.error_class() != ErrorClass::kFailedPrecondition) throw;
            return false;
        }
        return true;
    }

    /// The kernel side of the network without its firewall table. network_mutex_ is held.
    void set_up(const Call &call, const NetworkSpec &spec) {
        const bool free_choice = spec.subnets.empty() && settings_.subnet.empty();
        configure(spec.subnets.empty() ? default_subnets(kFirstSubnet) : spec.subnets);
        for (unsigned n = kFirstSubnet; free_choice && !is_free(bridge_.subnet, bridge_.name);
             configure(default_subnets(n)))
            if (++n > kLastSubnet)
                throw Error(ErrorClass::kFailedPrecondition,
                            "choose a subnet: the host has routes into each of 10.88.0.0/16 to 10.127.0.0/16",
                            "set subnet in [network.bridge]");
        if (spec.mtu != 0) bridge_.mtu = spec.mtu;
        if (!free_choice) check_overlap(bridge_.subnet, bridge_.name);
        if (bridge_.subnet6) check_overlap(*bridge_.subnet6, bridge_.name);
        bridge_index_ = ensure_bridge(bridge_);
        set_sysctl("net/ipv4/conf/" + bridge_.name + "/route_localnet", "1");
        if (set_sysctl("net/ipv4/ip_forward", "1")) {
            // Kept for the administrator; it stays on, since others may rely on it by the time we go.
            call.log(GANTRY_LOG_INFO, "switched on net.ipv4.ip_forward");
            if (const Host host = plugin_host()) {
                Host::Write w;
                w.key = "sysctl/net.ipv4.ip_forward";
                w.value = "0";
                host.apply(call, {w});
            }
        }
        if (bridge_.subnet6 && set_sysctl("net/ipv6/conf/all/forwarding", "1"))
            call.log(GANTRY_LOG_INFO, "switched on net.ipv6.conf.all.forwarding");
        if (network_ != spec.id || !leases_)
            leases_ = std::make_unique<Leases>(call, spec.id, env_.root + "/leases", bridge_.subnet,
                                               bridge_.gateway, range_, bridge_.subnet6, bridge_.gateway6);
        network_ = spec.id;
    }

    void need_network(const std::string &id, const std::string &doing) const {
        if (network_.empty() || network_ != id)
            throw Error(ErrorClass::kNotFound, doing + ": no network " + id.substr(0, 12));
    }

    struct Wanted {
        PortBinding binding;
        Address host; // family 0: every address
        Address target4, target6;
    };
    Published take(const Wanted &wanted, uint16_t port, bool restoring, int &error, std::string &error_host);
    void give_back(Published &p);
    Published take_any(const Wanted &wanted);
    void unpublish(const std::string &endpoint_id);

    const Environment env_;
    const Settings settings_;
    const PortRange random_range_;
    Firewall firewall_;
    std::shared_mutex network_mutex_; // before ports_mutex_
    BridgeSpec bridge_;
    Cidr range_;
    int bridge_index_ = 0;
    std::string network_;
    std::unique_ptr<Leases> leases_;

    std::mutex ports_mutex_;
    PortdClient portd_;
    Conntrack conntrack_;
    std::map<std::string, std::vector<Published>> published_;
    size_t holds_ = 0;
    std::minstd_rand random_{std::random_device{}()};
};

/// Holds one host port for both families, or nothing: error is the errno then.
Published BridgeDriver::take(const Wanted &w, uint16_t port, bool restoring, int &error,
                             std::string &error_host) {
    Published p;
    p.binding = w.binding;
    p.binding.host_port = p.binding.host_port_end = port;
    const auto protocol = static_cast<uint8_t>(w.binding.protocol);
    error = 0;
    const bool every = w.host.family == 0;
    // Before a port is held: a relay that is being spawned holds our descriptors until its exec, also when
    // this process is killed meanwhile.
    if (every || w.host.family == AF_INET6) portd_.ready();
    if (every || w.host.family == AF_INET) {
        Fd fd = bind_port(protocol, w.host, port);
        if (!fd && !restoring) {
            error = errno;
            error_host = every ? "0.0.0.0" : w.host.text();
            return p;
        }
        if (!fd)
            plugin_host().log(GANTRY_LOG_WARN,
                              "port " + std::to_string(port) + " is held by another program");
        if (fd && holds_ < kMaxHolds) {
            p.holds.push_back(std::move(fd));
            ++holds_;
        }
        Forward f;
        f.protocol = protocol;
        if (!w.host.any()) f.host = w.host;
        f.host_port = port;
        f.target = w.target4;
        f.target_port = w.binding.container_port;
        p.forwards.push_back(f);
    }
    if (every || w.host.family == AF_INET6) {
        const int e = portd_.add(protocol, w.host, port, w.target4, w.binding.container_port);
        p.relayed = e == 0;
        // A host without IPv6 (or without the relay) publishes on IPv4 only, unless IPv6 was named.
        if (e == EADDRINUSE || (e != 0 && !every && !restoring)) {
            error = restoring ? 0 : e;
            error_host = every ? "::" : w.host.text();
            if (error != 0) {
                give_back(p);
                return p;
            }
        }
        if (w.target6.family != 0) {
            // ::1 stays with the relay; everything else is translated and keeps the client's address.
            Forward f;
            f.protocol = protocol;
            f.v6 = true;
            if (!w.host.any()) f.host = w.host;
            f.host_port = port;
            f.target = w.target6;
            f.target_port = w.binding.container_port;
            p.forwards.push_back(f);
        }
    }
    return p;
}

void BridgeDriver::give_back(Published &p) {
    holds_ -= p.holds.size();
    p.holds.clear();
    if (p.relayed) {
        Address host;
        if (!p.binding.host_ip.empty()) host = parse_address(p.binding.host_ip, "host address");
        portd_.del(static_cast<uint8_t>(p.binding.protocol), host, p.binding.host_port);
        p.relayed = false;
    }
}

Published BridgeDriver::take_any(const Wanted &w) {
    const PortBinding &b = w.binding;
    const bool random = b.host_port == 0;
    const PortRange range =
        random ? random_range_ : PortRange{b.host_port, std::max(b.host_port, b.host_port_end)};
    const uint32_t count = range.last - range.first + 1u;
    const uint32_t offset = random ? random_() % count : 0;
    int error = EADDRINUSE;
    std::string host;
    for (uint32_t i = 0; i < count; ++i) {
        const auto port = static_cast<uint16_t>(range.first + (offset + i) % count);
        Published p = take(w, port, false, error, host);
        if (error == 0) return p;
        if (error != EADDRINUSE) break;
    }
    const std::string prefix = "driver failed programming external connectivity: ";
    if (error != EADDRINUSE)
        throw Error::from_errno(error,
                                prefix + "Bind for " + host + ":" + std::to_string(range.first) + " failed");
    if (count > 1)
        throw Error(ErrorClass::kAlreadyExists,
                    prefix + "Bind for " + host + ":" + std::to_string(range.first) + "-" +
                        std::to_string(range.last) + " failed: all ports are allocated");
    throw Error(ErrorClass::kAlreadyExists, prefix + "Bind for " + host + ":" + std::to_string(range.first) +
                                                " failed: port is already allocated");
}

namespace {
std::string name_of(gantry_protocol p) { return p == GANTRY_UDP ? "udp" : p == GANTRY_TCP ? "tcp" : "sctp"; }

Address host_of(const PortBinding &b) {
    return b.host_ip.empty() ? Address{} : parse_address(b.host_ip, "host address");
}

void check_binding(const PortBinding &b) {
    if (b.protocol != GANTRY_TCP && b.protocol != GANTRY_UDP)
        throw Error(ErrorClass::kUnsupported, "publish port " + std::to_string(b.container_port) + "/" +
                                                  name_of(b.protocol) +
                                                  ": only tcp and udp can be published");
    if (b.container_port == 0 || (b.host_port_end != 0 && b.host_port_end < b.host_port))
        throw Error(ErrorClass::kInvalidArgument,
                    "publish port " + std::to_string(b.container_port) + ": bad port");
}
} // namespace

std::vector<PortBinding> BridgeDriver::publish(const Call &, const std::string &endpoint_id,
                                               const EndpointInfo &info,
                                               const std::vector<PortBinding> &ports) {
    if (ports.size() > kMaxPorts)
        throw Error(ErrorClass::kInvalidArgument, "publish ports: more than " + std::to_string(kMaxPorts));
    std::vector<Wanted> wanted;
    for (const PortBinding &b : ports) {
        check_binding(b);
        Wanted w;
        w.binding = b;
        w.host = host_of(b);
        w.target4 = parse_address(info.ipv4, "address of the endpoint");
        if (!info.ipv6.empty()) w.target6 = parse_address(info.ipv6, "address of the endpoint");
        wanted.push_back(std::move(w));
    }
    const std::lock_guard lock(ports_mutex_);
    auto &now = published_[endpoint_id];
    std::vector<Published> next(wanted.size());
    std::vector<bool> kept(now.size(), false), given(wanted.size(), false), fresh(wanted.size(), false);
    // A binding that stays keeps its hold: it could not be bound a second time.
    for (size_t i = 0; i < wanted.size(); ++i)
        for (size_t j = 0; j < now.size() && !given[i]; ++j) {
            const PortBinding &a = wanted[i].binding, &b = now[j].binding;
            if (kept[j] || a.protocol != b.protocol || a.host_ip != b.host_ip ||
                a.container_port != b.container_port || a.host_port != b.host_port ||
                (a.host_port_end != 0 && a.host_port_end != a.host_port))
                continue;
            const bool target =
                std::all_of(now[j].forwards.begin(), now[j].forwards.end(), [&](const Forward &f) {
                    return f.target == (f.v6 ? wanted[i].target6 : wanted[i].target4);
                });
            if (!target) continue;
            kept[j] = given[i] = true;
            next[i].binding = b; // the rest is moved when nothing can fail any more
        }
    std::vector<Forward> add, remove;
    try {
        for (size_t i = 0; i < wanted.size(); ++i) {
            if (given[i]) continue;
            next[i] = take_any(wanted[i]);
            fresh[i] = true;
            add.insert(add.end(), next[i].forwards.begin(), next[i].forwards.end());
        }
        for (size_t j = 0; j < now.size(); ++j)
            if (!kept[j]) remove.insert(remove.end(), now[j].forwards.begin(), now[j].forwards.end());
        firewall_.change(remove, add);
        conntrack_.forget(remove, add);
    } catch (...) {
        for (size_t i = 0; i < next.size(); ++i)
            if (fresh[i]) give_back(next[i]);
        if (now.empty()) published_.erase(endpoint_id);
        throw;
    }
    std::fill(kept.begin(), kept.end(), false);
    for (size_t i = 0; i < next.size(); ++i)
        for (size_t j = 0; j < now.size() && given[i]; ++j)
            if (!kept[j] && next[i].binding.host_port == now[j].binding.host_port &&
                next[i].binding.protocol == now[j].binding.protocol &&
                next[i].binding.host_ip == now[j].binding.host_ip &&
                next[i].binding.container_port == now[j].binding.container_port) {
                next[i] = std::move(now[j]);
                kept[j] = true;
                break;
            }
    for (size_t j = 0; j < now.size(); ++j)
        if (!kept[j]) give_back(now[j]);
    std::vector<PortBinding> out;
    for (const Published &p : next)
        out.push_back(p.binding);
    if (next.empty())
        published_.erase(endpoint_id);
    else
        now = std::move(next);
    return out;
}

void BridgeDriver::unpublish(const std::string &endpoint_id) {
    const std::lock_guard lock(ports_mutex_);
    const auto it = published_.find(endpoint_id);
    if (it == published_.end()) return;
    std::vector<Forward> remove;
    for (const Published &p : it->second)
        remove.insert(remove.end(), p.forwards.begin(), p.forwards.end());
    firewall_.change(remove, {});
    conntrack_.forget(remove, {});
    for (Published &p : it->second)
        give_back(p);
    published_.erase(it);
}

void BridgeDriver::restore(const Call &call, const std::vector<NetworkSpec> &networks,
                           const std::vector<EndpointState> &endpoints) {
    const std::unique_lock lock(network_mutex_);
    const auto attempt = [&](const std::string &what, const auto &work) {
        try {
            work();
        } catch (const Error &e) {
            call.log(GANTRY_LOG_WARN, ("restore " + what + ": " + e.message()).c_str());
        }
    };
    if (networks.empty()) return;
    for (size_t i = 1; i < networks.size(); ++i)
        call.log(GANTRY_LOG_WARN,
                 ("restore network " + networks[i].name + ": this driver has one only").c_str());
    const NetworkSpec &network = networks[0];
    attempt("network " + network.name, [&] { set_up(call, network); });
    if (!leases_) return;

    const std::lock_guard ports_lock(ports_mutex_);
    for (auto &[id, list] : published_)
        for (Published &p : list)
            holds_ -= p.holds.size();
    published_.clear();
    portd_.mark();
    std::map<std::string, Leases::Pair> truth;
    std::set<std::string> names;
    std::vector<Forward> forwards;
    for (const EndpointState &state : endpoints) {
        if (state.spec.network_id != network.id) continue;
        attempt("endpoint " + state.spec.id.substr(0, 12), [&] {
            Leases::Pair pair;
            pair.v4 = parse_address(state.info.ipv4, "address");
            if (!state.info.ipv6.empty()) pair.v6 = parse_address(state.info.ipv6, "address");
            truth[state.spec.id] = pair;
            names.insert(veth_name(state.spec.id));
            for (const PortBinding &b : state.ports) {
                check_binding(b);
                Wanted w{b, host_of(b), pair.v4, pair.v6};
                int error = 0;
                std::string host;
                Published p = take(w, b.host_port, true, error, host);
                forwards.insert(forwards.end(), p.forwards.begin(), p.forwards.end());
                published_[state.spec.id].push_back(std::move(p));
            }
        });
    }
    portd_.sweep();
    attempt("leases", [&] { leases_->settle(call, truth); });
    // Two endpoints with the same host port would fail the whole table.
    std::set<std::tuple<bool, uint8_t, Address, uint16_t>> seen;
    std::erase_if(forwards, [&](const Forward &f) {
        return !seen.insert({f.v6, f.protocol, f.host, f.host_port}).second;
    });
    attempt("firewall", [&] { firewall_.rebuild(bridge_, forwards); });
    attempt("iptables",
            [&] { firewall_.pass_foreign_forward(call, bridge_.name, bridge_.subnet6.has_value(), false); });
    if (bridge_index_ == 0) return;
    attempt("links", [&] {
        const auto attached = veths_on(bridge_index_);
        for (const std::string &name : attached)
            if (!names.contains(name)) attempt("link " + name, [&] { delete_link(name); });
        for (const std::string &name : veths_on(0)) // the bridge was deleted meanwhile
            if (names.contains(name)) attempt("link " + name, [&] { enslave(bridge_, bridge_index_, name); });
    });
}

} // namespace

std::unique_ptr<NetworkDriver> make_driver(const Environment &env, const Settings &settings) {
    return std::make_unique<BridgeDriver>(env, settings);
}

} // namespace gantry::bridge

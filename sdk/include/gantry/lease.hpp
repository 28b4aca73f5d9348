// Who has which IPv4 address: what every network driver needs and easily gets wrong. Leases live in the
// host's key-value store, written before they count, so that after kill -9 an address is leased once or not
// at all, and an endpoint that comes again gets its own.
//
//   keys: net/<network> -> "subnet gateway range", ip/<network>/<address> -> endpoint, end/<endpoint> -> both
#pragma once

#include <gantry/plugin.hpp>

#include <arpa/inet.h>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace gantry {

/// An IPv4 subnet, addresses in host order.
struct Subnet4 {
    uint32_t base = 0;
    unsigned prefix = 0;

    static uint32_t address(const std::string &text, std::string_view what) {
        in_addr a{};
        if (::inet_pton(AF_INET, text.c_str(), &a) != 1)
            throw Error(ErrorClass::kInvalidArgument,
                        "read " + std::string(what) + ": \"" + text.substr(0, 64) + "\" is no IPv4 address");
        return ntohl(a.s_addr);
    }
    static std::string text(uint32_t address) {
        const in_addr a{htonl(address)};
        char out[INET_ADDRSTRLEN];
        ::inet_ntop(AF_INET, &a, out, sizeof out);
        return out;
    }
    static Subnet4 parse(const std::string &cidr, std::string_view what) {
        const size_t slash = cidr.find('/');
        Subnet4 out;
        out.base = address(cidr.substr(0, slash), what);
        char rest = 0;
        if (slash == std::string::npos || cidr.size() - slash > 3 ||
            std::sscanf(cidr.c_str() + slash + 1, "%2u%c", &out.prefix, &rest) != 1 || out.prefix < 1 ||
            out.prefix > 32)
            throw Error(ErrorClass::kInvalidArgument,
                        "read " + std::string(what) + ": \"" + cidr.substr(0, 64) + "\" is no subnet",
                        "write it as 10.88.0.0/16");
        out.base &= out.mask();
        return out;
    }
    uint32_t mask() const noexcept { return ~uint32_t{0} << (32 - prefix); }
    uint32_t last() const noexcept { return base | ~mask(); }
    bool contains(uint32_t a) const noexcept { return (a & mask()) == base; }
    bool overlaps(const Subnet4 &other) const noexcept {
        return contains(other.base) || other.contains(base);
    }
    std::string text() const { return text(base) + "/" + std::to_string(prefix); }
};

/// The leases of a driver. Thread-safe; holds no lock while it calls the host for another's sake.
class Leases4 {
  public:
    struct Network {
        Subnet4 subnet, range;
        uint32_t gateway = 0; // 0: none
    };
    struct Lease {
        uint32_t address = 0;
        Network network;
    };

    /// Idempotent. Empty texts: the whole subnet, no gateway. kFailedPrecondition when it overlaps another.
    void add_network(const Call &call, const std::string &id, const Network &network) {
        const std::lock_guard lock(mutex_);
        const Host host = plugin_host();
        for (const std::string &key : host.list(call, "net/"))
            if (const auto other = find_network(call, key.substr(4));
                other && key.substr(4) != id && other->subnet.overlaps(network.subnet))
                throw Error(ErrorClass::kFailedPrecondition, "create network: " + network.subnet.text() +
                                                                 " overlaps the network on " +
                                                                 other->subnet.text());
        host.apply(call, {set("net/" + id, network.subnet.text() + " " + Subnet4::text(network.gateway) +
                                               " " + network.range.text())});
    }
    std::optional<Network> find_network(const Call &call, const std::string &id) const {
        const auto text = plugin_host().get(call, "net/" + id);
        if (!text) return {};
        const size_t one = text->find(' '), two = text->find(' ', one + 1);
        return Network{Subnet4::parse(text->substr(0, one), "stored subnet"),
                       Subnet4::parse(text->substr(two + 1), "stored range"),
                       Subnet4::address(text->substr(one + 1, two - one - 1), "stored gateway")};
    }
    void remove_network(const Call &call, const std::string &id) {
        const std::lock_guard lock(mutex_);
        std::vector<Host::Write> writes{erase("net/" + id)};
        for (const std::string &key : plugin_host().list(call, "ip/" + id + "/"))
            writes.push_back(erase(key));
        plugin_host().apply(call, writes);
    }

    /// The endpoint's own address if it has one; `wanted` or the next free one otherwise.
    Lease lease(const Call &call, const std::string &network_id, const std::string &endpoint,
                const std::string &wanted) {
        const std::lock_guard lock(mutex_);
        const Host host = plugin_host();
        const auto network = find_network(call, network_id);
        if (!network)
            throw Error(ErrorClass::kNotFound, "attach endpoint: no network " + network_id.substr(0, 12));
        if (const auto had = host.get(call, "end/" + endpoint))
            return {Subnet4::address(had->substr(had->find(' ') + 1), "stored lease"), *network};
        const Subnet4 &subnet = network->subnet, &range = network->range;
        const std::string prefix = "ip/" + network_id + "/";
        const auto usable = [&](uint32_t a) {
            return a != network->gateway && (subnet.prefix >= 31 || (a != subnet.base && a != subnet.last()));
        };
        uint32_t address = 0;
        if (!wanted.empty()) {
            address = Subnet4::address(wanted, "wanted address");
            if (!subnet.contains(address) || !usable(address))
                throw Error(ErrorClass::kInvalidArgument, "lease address " + wanted +
                                                              ": not an address for containers in " +
                                                              subnet.text());
            if (host.get(call, prefix + wanted))
                throw Error(ErrorClass::kAlreadyExists, "lease address " + wanted + ": it is taken");
        } else {
            // Goes round, so that an address given back is the last to be given again.
            const uint64_t size = uint64_t{range.last()} - range.base + 1;
            for (uint64_t i = 0; i < size && address == 0; ++i) {
                const uint32_t next = range.base + static_cast<uint32_t>((cursor_ + 1 + i) % size);
                if (usable(next) && !host.get(call, prefix + Subnet4::text(next))) {
                    address = next;
                    cursor_ = next - range.base;
                }
                call.check("lease address");
            }
            if (address == 0)
                throw Error(ErrorClass::kNoSpace, "lease address: no free address in " + range.text(),
                            "remove containers or configure a larger range");
        }
        Host::Write taken = set(prefix + Subnet4::text(address), endpoint);
        taken.expect = Host::Write::Expect::kAbsent;
        host.apply(call, {taken, set("end/" + endpoint, network_id + " " + Subnet4::text(address))});
        return {address, *network};
    }
    bool has(const Call &call, const std::string &endpoint) const {
        return plugin_host().get(call, "end/" + endpoint).has_value();
    }
    /// Idempotent.
    void release(const Call &call, const std::string &endpoint) {
        const std::lock_guard lock(mutex_);
        const auto had = plugin_host().get(call, "end/" + endpoint);
        if (!had) return;
        const size_t space = had->find(' ');
        plugin_host().apply(call, {erase("ip/" + had->substr(0, space) + "/" + had->substr(space + 1)),
                                   erase("end/" + endpoint)});
    }
    /// Makes the leases agree with what the core says exists: lost ones return, strays go.
    void restore(const Call &call, const std::vector<EndpointState> &endpoints) {
        const std::lock_guard lock(mutex_);
        std::vector<Host::Write> writes;
        for (const std::string &key : plugin_host().list(call, "ip/"))
            writes.push_back(erase(key));
        for (const std::string &key : plugin_host().list(call, "end/"))
            writes.push_back(erase(key));
        for (const EndpointState &e : endpoints) {
            if (e.info.ipv4.empty()) continue;
            writes.push_back(set("ip/" + e.spec.network_id + "/" + e.info.ipv4, e.spec.id));
            writes.push_back(set("end/" + e.spec.id, e.spec.network_id + " " + e.info.ipv4));
        }
        if (!writes.empty()) plugin_host().apply(call, writes);
    }
    /// Forgets everything.
    void clear(const Call &call) {
        const std::lock_guard lock(mutex_);
        std::vector<Host::Write> writes;
        for (const char *prefix : {"net/", "ip/", "end/"})
            for (const std::string &key : plugin_host().list(call, prefix))
                writes.push_back(erase(key));
        if (!writes.empty()) plugin_host().apply(call, writes);
    }

    /// The subnet a network gets: the specification's, or the driver's own; kInvalidArgument when unusable.
    static Network settle(const NetworkSpec &spec, const std::string &subnet, const std::string &gateway,
                          const std::string &range) {
        Subnet asked{subnet, gateway, range};
        if (!spec.subnets.empty()) asked = spec.subnets.front();
        if (spec.subnets.size() > 1 || asked.cidr.find(':') != std::string::npos)
            throw Error(ErrorClass::kUnsupported,
                        "create network " + spec.name + ": this driver takes one IPv4 subnet");
        Network out;
        out.subnet = Subnet4::parse(asked.cidr, "subnet");
        out.range = asked.range.empty() ? out.subnet : Subnet4::parse(asked.range, "range");
        if (!asked.gateway.empty()) out.gateway = Subnet4::address(asked.gateway, "gateway");
        if (!out.subnet.contains(out.range.base) || out.range.prefix < out.subnet.prefix)
            throw Error(ErrorClass::kInvalidArgument, "create network " + spec.name + ": range " +
                                                          out.range.text() + " is not in " +
                                                          out.subnet.text());
        if (out.gateway != 0 && !out.subnet.contains(out.gateway))
            throw Error(ErrorClass::kInvalidArgument, "create network " + spec.name + ": gateway " +
                                                          asked.gateway + " is not in " + out.subnet.text());
        return out;
    }
    /// Throws kFailedPrecondition when a route of this host leads into the subnet, except through `link`.
    static void check_routes(const Subnet4 &subnet, const std::string &link) {
        const std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen("/proc/thread-self/net/route", "re"),
                                                          std::fclose);
        char line[512], name[64];
        uint32_t base = 0, mask = 0;
        if (!file) throw Error::from_errno(errno, "read the routes of this host");
        while (std::fgets(line, sizeof line, file.get())) {
            // link, destination, gateway, flags, references, uses, metric, mask; numbers as in memory
            if (std::sscanf(line, "%63s %x %*x %*x %*d %*d %*d %x", name, &base, &mask) != 3) continue;
            base = ntohl(base), mask = ntohl(mask);
            if (mask == 0 || name == link) continue; // the default route leads everywhere
            if ((subnet.base & mask) == base || subnet.contains(base))
                throw Error(ErrorClass::kFailedPrecondition,
                            "create network: " + subnet.text() + " overlaps the route to " +
                                Subnet4::text(base) + " on " + name,
                            "choose another subnet");
        }
    }
    /// "02:42:" and the address, as others do it: the same at every start.
    static std::string mac_of(uint32_t a) {
        char out[18];
        std::snprintf(out, sizeof out, "02:42:%02x:%02x:%02x:%02x", a >> 24, a >> 16 & 255, a >> 8 & 255,
                      a & 255);
        return out;
    }

  private:
    static Host::Write set(std::string key, std::string value) {
        Host::Write write;
        write.key = std::move(key);
        write.value = std::move(value);
        return write;
    }
    static Host::Write erase(std::string key) {
        Host::Write write;
        write.key = std::move(key);
        return write;
    }

    mutable std::mutex mutex_;
    uint64_t cursor_ = 0;
};

} // namespace gantry

// See addresses.h. The map of owners is the truth while the engine runs; the store is written first, so
// that after kill -9 an address is leased once or not at all.
#include "addresses.h"

#include <gantry/plugin.hpp>

#include <algorithm>
#include <arpa/inet.h>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace gantry::bridge {

size_t Address::size() const noexcept { return family == AF_INET ? 4 : family == AF_INET6 ? 16 : 0; }

std::string Address::text() const {
    char buffer[INET6_ADDRSTRLEN] = "";
    if (family != 0) ::inet_ntop(family, bytes.data(), buffer, sizeof buffer);
    return buffer;
}

bool Address::any() const noexcept {
    return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

uint32_t Address::v4() const noexcept {
    uint32_t n;
    std::memcpy(&n, bytes.data(), sizeof n);
    return ntohl(n);
}

Address v4_address(uint32_t host_order) {
    Address a;
    a.family = AF_INET;
    const uint32_t n = htonl(host_order);
    std::memcpy(a.bytes.data(), &n, sizeof n);
    return a;
}

Address parse_address(std::string_view text, std::string_view what) {
    Address a;
    a.family = text.find(':') == std::string_view::npos ? AF_INET : AF_INET6;
    if (text.size() > 64 || ::inet_pton(a.family, std::string(text).c_str(), a.bytes.data()) != 1)
        throw Error(ErrorClass::kInvalidArgument, "read " + std::string(what) + ": \"" +
                                                      std::string(text.substr(0, 64)) +
                                                      "\" is no IP address");
    return a;
}

namespace {
bool same_prefix(const Address &a, const Address &b, unsigned bits) noexcept {
    if (a.family != b.family) return false;
    const unsigned whole = bits / 8, rest = bits % 8;
    if (std::memcmp(a.bytes.data(), b.bytes.data(), whole) != 0) return false;
    return rest == 0 || ((a.bytes[whole] ^ b.bytes[whole]) >> (8 - rest)) == 0;
}
} // namespace

Cidr parse_cidr(std::string_view text, std::string_view what) {
    const size_t slash = text.find('/');
    Cidr c;
    c.base = parse_address(text.substr(0, slash), what);
    const std::string digits(slash == std::string_view::npos ? "" : text.substr(slash + 1));
    const bool plain = !digits.empty() && digits.size() <= 3 &&
                       std::all_of(digits.begin(), digits.end(), [](char d) { return d >= '0' && d <= '9'; });
    c.prefix = plain ? static_cast<unsigned>(std::stoul(digits)) : 999;
    if (c.prefix > c.base.size() * 8)
        throw Error(ErrorClass::kInvalidArgument,
                    "read " + std::string(what) + ": \"" + std::string(text.substr(0, 64)) +
                        "\" is no subnet",
                    "write it as 10.88.0.0/16");
    for (unsigned bit = c.prefix; bit < c.base.size() * 8; ++bit)
        c.base.bytes[bit / 8] &= static_cast<uint8_t>(~(0x80u >> (bit % 8)));
    return c;
}

bool Cidr::contains(const Address &address) const noexcept { return same_prefix(base, address, prefix); }
bool Cidr::overlaps(const Cidr &other) const noexcept {
    return same_prefix(base, other.base, std::min(prefix, other.prefix));
}
std::string Cidr::text() const { return base.text() + "/" + std::to_string(prefix); }

Address nth_address(const Cidr &cidr, uint64_t n) {
    Address a = cidr.base;
    for (size_t i = a.size(); i-- > 0 && n != 0;) {
        n += a.bytes[i];
        a.bytes[i] = static_cast<uint8_t>(n);
        n >>= 8;
    }
    return a;
}

std::string mac_of(const Address &v4) {
    char buffer[18];
    std::snprintf(buffer, sizeof buffer, "02:42:%02x:%02x:%02x:%02x", v4.bytes[0], v4.bytes[1], v4.bytes[2],
                  v4.bytes[3]);
    return buffer;
}

std::array<uint8_t, 6> parse_mac(std::string_view text) {
    std::array<uint8_t, 6> mac{};
    unsigned b[6];
    char rest;
    const std::string copy(text.substr(0, 32));
    if (copy.size() != 17 ||
        std::sscanf(copy.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%c", b, b + 1, b + 2, b + 3, b + 4, b + 5, &rest) !=
            6 ||
        (b[0] & 1) != 0)
        throw Error(ErrorClass::kInvalidArgument, "read MAC address: \"" + copy + "\" is no unicast address",
                    "write it as 02:42:0a:58:00:05");
    for (size_t i = 0; i < 6; ++i)
        mac[i] = static_cast<uint8_t>(b[i]);
    return mac;
}

Leases::Leases(const Call &call, std::string network, std::string file, Cidr subnet, Address gateway,
               Cidr range, std::optional<Cidr> subnet6, Address gateway6)
    : network_(std::move(network)), file_(std::move(file)), subnet_(subnet), range_(range), subnet6_(subnet6),
      gateway_(gateway), gateway6_(gateway6) {
    const auto add = [&](const std::string &address, const std::string &endpoint) {
        const Address a = parse_address(address, "lease");
        owner_[a] = endpoint;
        Pair &pair = by_endpoint_[endpoint];
        (a.family == AF_INET ? pair.v4 : pair.v6) = a;
        // Go on after the highest that is in use.
        if (a.family == AF_INET && range_.contains(a))
            cursor_ = std::max<uint64_t>(cursor_, a.v4() - range_.base.v4());
    };
    if (const Host host = plugin_host()) {
        const std::string prefix = "lease/" + network_ + "/";
        for (const std::string &k : host.list(call, prefix))
            if (const auto value = host.get(call, k)) add(k.substr(prefix.size()), *value);
    } else {
        std::ifstream in(file_);
        for (std::string address, endpoint; in >> address >> endpoint;)
            add(address, endpoint);
    }
}

std::string Leases::key(const Address &address) const { return "lease/" + network_ + "/" + address.text(); }

void Leases::save(const Call &call, const std::vector<std::pair<Address, std::string>> &changes) {
    if (changes.empty()) return;
    if (const Host host = plugin_host()) {
        std::vector<Host::Write> writes;
        for (const auto &[address, endpoint] : changes) {
            Host::Write w;
            w.key = key(address);
            if (!endpoint.empty()) w.value = endpoint;
            writes.push_back(std::move(w));
        }
        host.apply(call, writes);
        return;
    }
    auto after = owner_;
    for (const auto &[address, endpoint] : changes) {
        if (endpoint.empty())
            after.erase(address);
        else
            after[address] = endpoint;
    }
    const std::string part = file_ + ".part";
    std::ofstream out(part, std::ios::trunc);
    for (const auto &[address, endpoint] : after)
        out << address.text() << ' ' << endpoint << '\n';
    out.close();
    if (!out || std::rename(part.c_str(), file_.c_str()) != 0)
        throw Error::from_errno(errno, "write leases to " + file_);
}

Address Leases::free_address(const Cidr &cidr, const Address &gateway, uint64_t &cursor) const {
    const unsigned host_bits = static_cast<unsigned>(cidr.base.size() * 8) - cidr.prefix;
    const uint64_t size = host_bits >= 32 ? uint64_t{1} << 32 : uint64_t{1} << host_bits;
    // No more misses than there are leases (and gateway, network and broadcast address).
    const uint64_t tries = std::min<uint64_t>(size, owner_.size() + 4);
    uint64_t at = cursor;
    for (uint64_t i = 0; i < tries; ++i) {
        at = (at + 1) % size;
        const Address a = nth_address(cidr, at);
        const bool network_address = a == subnet_.base || (subnet6_ && a == subnet6_->base);
        const bool broadcast = a.family == AF_INET && subnet_.prefix < 31 &&
                               a.v4() == (subnet_.base.v4() | (0xffffffffu >> subnet_.prefix));
        if (network_address || broadcast || a == gateway || owner_.contains(a)) continue;
        cursor = at;
        return a;
    }
    throw Error(ErrorClass::kNoSpace, "lease address: no free address in " + cidr.text(),
                "remove containers or configure a larger subnet");
}

Leases::Pair Leases::lease(const Call &call, const std::string &endpoint, const std::string &v4,
                           const std::string &v6) {
    const std::lock_guard lock(mutex_);
    if (const auto it = by_endpoint_.find(endpoint); it != by_endpoint_.end()) return it->second;
    const auto wanted = [&](const std::string &text, const Cidr &cidr, const Address &gateway) {
        const Address a = parse_address(text, "wanted address");
        if (!cidr.contains(a) || a == cidr.base)
            throw Error(ErrorClass::kInvalidArgument,
                        "lease address " + text + ": not in subnet " + cidr.text());
        if (a == gateway || owner_.contains(a))
            throw Error(ErrorClass::kAlreadyExists, "lease address " + text + ": Address already in use");
        return a;
    };
    Pair pair;
    pair.v4 = v4.empty() ? free_address(range_, gateway_, cursor_) : wanted(v4, subnet_, gateway_);
    if (subnet6_)
        pair.v6 =
            v6.empty() ? free_address(*subnet6_, gateway6_, cursor6_) : wanted(v6, *subnet6_, gateway6_);
    else if (!v6.empty())
        throw Error(ErrorClass::kInvalidArgument, "lease address " + v6 + ": the network has no IPv6 subnet",
                    "set subnet6 in [network.bridge]");
    std::vector<std::pair<Address, std::string>> changes{{pair.v4, endpoint}};
    if (pair.v6.family != 0) changes.emplace_back(pair.v6, endpoint);
    save(call, changes);
    for (const auto &[address, owner] : changes)
        owner_[address] = owner;
    by_endpoint_[endpoint] = pair;
    return pair;
}

void Leases::release(const Call &call, const std::string &endpoint) {
    const std::lock_guard lock(mutex_);
    const auto it = by_endpoint_.find(endpoint);
    if (it == by_endpoint_.end()) return;
    std::vector<std::pair<Address, std::string>> changes;
    for (const Address &a : {it->second.v4, it->second.v6})
        if (a.family != 0) changes.emplace_back(a, "");
    save(call, changes);
    for (const auto &change : changes)
        owner_.erase(change.first);
    by_endpoint_.erase(it);
}

void Leases::settle(const Call &call, const std::map<std::string, Pair> &truth) {
    const std::lock_guard lock(mutex_);
    std::map<Address, std::string> wanted;
    for (const auto &[endpoint, pair] : truth)
        for (const Address &a : {pair.v4, pair.v6})
            if (a.family != 0) wanted.emplace(a, endpoint);
    std::vector<std::pair<Address, std::string>> changes;
    for (const auto &[address, endpoint] : owner_)
        if (!wanted.contains(address)) changes.emplace_back(address, "");
    for (const auto &[address, endpoint] : wanted)
        if (const auto it = owner_.find(address); it == owner_.end() || it->second != endpoint)
            changes.emplace_back(address, endpoint);
    save(call, changes);
    owner_ = std::move(wanted);
    by_endpoint_ = truth;
}

size_t Leases::used() const {
    const std::lock_guard lock(mutex_);
    return by_endpoint_.size();
}

} // namespace gantry::bridge

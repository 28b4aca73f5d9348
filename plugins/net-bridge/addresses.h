// IP addresses, and the pool from which containers get theirs.
//
// The pool goes round: an address that was given back is the last to be given again, because the link
// of the container that had it may still be dying with its namespace.
#pragma once

#include <gantry/call.hpp>
#include <gantry/network.hpp>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gantry::bridge {

struct Address {
    int family = 0; // AF_INET, AF_INET6, 0: none
    std::array<uint8_t, 16> bytes{};

    size_t size() const noexcept;
    std::string text() const;
    bool any() const noexcept;    // 0.0.0.0 or ::
    uint32_t v4() const noexcept; // host order
    auto operator<=>(const Address &) const = default;
};
/// Throws kInvalidArgument that names `what`.
Address parse_address(std::string_view text, std::string_view what);
Address v4_address(uint32_t host_order);

struct Cidr {
    Address base; // host bits cleared
    unsigned prefix = 0;

    bool contains(const Address &address) const noexcept;
    bool overlaps(const Cidr &other) const noexcept;
    std::string text() const;
};
Cidr parse_cidr(std::string_view text, std::string_view what);
/// base + n
Address nth_address(const Cidr &cidr, uint64_t n);

/// "02:42:" and the IPv4 address: unique on the bridge, and the same on every start.
std::string mac_of(const Address &v4);
std::array<uint8_t, 6> parse_mac(std::string_view text); // throws kInvalidArgument

/// Who has which address. Kept in the host's key-value store ("lease/<network>/<address>" -> endpoint),
/// or in a file where there is no host. Thread-safe.
class Leases {
  public:
    struct Pair {
        Address v4, v6; // v6.family 0: none
    };
    /// Subnets of one network; loads what was leased before.
    Leases(const Call &call, std::string network, std::string file, Cidr subnet, Address gateway, Cidr range,
           std::optional<Cidr> subnet6, Address gateway6);

    /// The same endpoint gets the same again. kNoSpace, kAlreadyExists as in network.h.
    Pair lease(const Call &call, const std::string &endpoint, const std::string &v4, const std::string &v6);
    void release(const Call &call, const std::string &endpoint);
    /// Exactly these remain.
    void settle(const Call &call, const std::map<std::string, Pair> &truth);
    size_t used() const;

  private:
    Address free_address(const Cidr &cidr, const Address &gateway, uint64_t &cursor) const;
    void save(const Call &call, const std::vector<std::pair<Address, std::string>> &changes);
    std::string key(const Address &address) const;

    mutable std::mutex mutex_;
    std::string network_, file_;
    Cidr subnet_, range_;
    std::optional<Cidr> subnet6_;
    Address gateway_, gateway6_;
    std::map<Address, std::string> owner_;
    std::map<std::string, Pair> by_endpoint_;
    uint64_t cursor_ = 0, cursor6_ = 0;
};

} // namespace gantry::bridge

// The engine's own nftables table, and the accept rules that another's DROP policy makes necessary.
//
// The table is made in one transaction together with all published ports; afterwards a port is one map
// element, set through raw nfnetlink in microseconds.
#pragma once

#include "addresses.h"
#include "links.h"

#include <mutex>
#include <string>
#include <vector>

namespace gantry::bridge {

/// host:port -> container:port. host.family 0 with `v6` says: every address of that family.
struct Forward {
    uint8_t protocol = 6;
    bool v6 = false;
    Address host;
    uint16_t host_port = 0;
    Address target;
    uint16_t target_port = 0;
    auto operator<=>(const Forward &) const = default;
};

/// Thread-safe.
class Firewall {
  public:
    Firewall(std::string engine_id, bool masquerade);

    /// Makes the table anew with exactly these ports; packets see the old or the new one. Established
    /// connections go on.
    void rebuild(const BridgeSpec &bridge, const std::vector<Forward> &forwards);
    bool present();
    /// One transaction.
    void change(const std::vector<Forward> &remove, const std::vector<Forward> &add);
    void remove();

    /// A chain FORWARD that drops cannot be overruled from another table: appends accept rules for the
    /// bridge to it, marked by a comment. `quick` (10 us) looks at the policy only: a Docker daemon that
    /// was started after gantry. When the program that could do it is missing, says so in the log.
    void pass_foreign_forward(const Call &call, const std::string &bridge, bool v6, bool quick);
    void remove_foreign(const Call &call);
    const std::string &table() const noexcept { return table_; }

  private:
    bool pass(const std::string &program, const std::string &bridge);
    std::mutex mutex_;
    std::string table_;
    bool masquerade_;
    Netlink netlink_;
    enum Kind { kNft, kLegacy, kKinds }; // of iptables: both can have a FORWARD chain at once
    bool passed_[2][kKinds] = {};
};

} // namespace gantry::bridge

// UDP has no connections, but the kernel tracks flows, and the first packet decides for all: a client that
// sent before a port was published goes on reaching nobody, one that goes on sending after it was
// unpublished goes on reaching the old address. So the entries a change makes wrong are deleted.
#pragma once

#include "firewall.h"
#include "netlink.h"

#include <optional>
#include <vector>

namespace gantry::bridge {

/// Not thread-safe. Works in the namespace in which it was made.
class Conntrack {
  public:
    Conntrack();
    /// Flows to ports that are translated from now on, and of ports that are not any more; UDP only, others
    /// are skipped. Never fails: without connection tracking there is nothing to forget.
    void forget(const std::vector<Forward> &removed, const std::vector<Forward> &added) noexcept;

  private:
    std::optional<Netlink> netlink_;
};

} // namespace gantry::bridge

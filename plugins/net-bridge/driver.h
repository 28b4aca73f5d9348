// The bridge driver: one bridge, one nftables table and one relay process for each engine.
#pragma once

#include <gantry/network.hpp>
#include <gantry/plugin.hpp>

#include <memory>

namespace gantry::bridge {

struct Settings {
    std::string name = "gantry0", subnet6, gateway, port_range = "32768-60999";
    std::string subnet; // "": the first of 10.88.0.0/16 to 10.127.0.0/16 that no route of the host uses
    uint32_t mtu = 0;
    bool masquerade = true, icc = true;
};

/// Changes nothing in the kernel until create_network or restore. Throws kInvalidArgument on settings
/// that make no sense.
std::unique_ptr<NetworkDriver> make_driver(const Environment &env, const Settings &settings);

} // namespace gantry::bridge

// [network.bridge]: containers on a Linux bridge, ports through nftables.
#include "driver.h"

static const gantry_option kOptions[] = {
    gantry::option_string("name", "\"gantry0\"", "name of the bridge"),
    gantry::option_string(
        "subnet", "\"\"",
        "IPv4 subnet of the containers; empty: the first free of 10.88.0.0/16 to 10.127.0.0/16"),
    gantry::option_string("subnet6", "\"\"", "IPv6 subnet of the containers; empty: none"),
    gantry::option_string("gateway", "\"\"", "IPv4 address of the bridge; empty: the subnet's first"),
    gantry::option_int("mtu", "0", 0, 65535, "MTU of bridge and links; 0: the kernel's default"),
    gantry::option_bool("masquerade", "true", "hide the containers behind the host's address"),
    gantry::option_bool("icc", "true", "containers may talk to each other directly"),
    gantry::option_string("port_range", "\"32768-60999\"", "host ports for published ports that name none"),
};

GANTRY_NETWORK_PLUGIN("bridge", GANTRY_VERSION, "containers on a Linux bridge, ports through nftables",
                      kOptions,
                      [](const gantry::Environment &env, const gantry::Config &config, const gantry::Call &) {
                          gantry::bridge::Settings s;
                          s.name = config.string("name");
                          s.subnet = config.string("subnet");
                          s.subnet6 = config.string("subnet6");
                          s.gateway = config.string("gateway");
                          s.mtu = static_cast<uint32_t>(config.integer("mtu"));
                          s.masquerade = config.boolean("masquerade");
                          s.icc = config.boolean("icc");
                          s.port_range = config.string("port_range");
                          return gantry::bridge::make_driver(env, s);
                      });

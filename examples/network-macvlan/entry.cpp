#include "driver.h"

#include <gantry/plugin.hpp>

static const gantry_option kOptions[] = {
    gantry::option_string("parent", "\"eth0\"", "link of the host that containers share"),
    gantry::option_string("subnet", "\"198.18.80.0/20\"", "the subnet on that link"),
    gantry::option_string("gateway", "\"\"", "router of that subnet; empty: no default route"),
    gantry::option_string("range", "\"\"", "part of the subnet for containers; empty: all of it")};

GANTRY_NETWORK_PLUGIN("macvlan", "1.0", "containers as neighbours on a link of the host", kOptions,
                      [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                          return std::make_unique<MacvlanDriver>(
                              MacvlanDriver::Settings{config.string("parent"), config.string("subnet"),
                                                      config.string("gateway"), config.string("range")});
                      });

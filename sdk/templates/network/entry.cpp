// What the engine reads of this plugin: name, version, options, and how an instance is made.
#include "driver.h"

#include <gantry/plugin.hpp>

static const gantry_option kOptions[] = {
    gantry::option_string("subnet", "\"198.18.64.0/20\"", "addresses of the default network")};

GANTRY_NETWORK_PLUGIN("@NAME@", PLUGIN_VERSION, "an address for each container, and no way out", kOptions,
                      [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                          return std::make_unique<@CLASS@>(config.string("subnet"));
                      });

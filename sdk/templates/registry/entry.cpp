// What the engine reads of this plugin: name, version, options, and how an instance is made.
#include "driver.h"

#include <gantry/plugin.hpp>

static const gantry_option kOptions[] = {
    gantry::option_string("directory", "\"/srv/images\"", "where the layouts are, one for each repository"),
    gantry::option_string("registry", "\"@NAME@.local\"", "references of this registry are looked for there")};

GANTRY_REGISTRY_PLUGIN("@NAME@", PLUGIN_VERSION, "images from OCI layouts in a directory", kOptions,
                       [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                           return std::make_unique<@CLASS@>(config.string("directory"),
                                                            config.string("registry"));
                       });

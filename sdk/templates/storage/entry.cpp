// What the engine reads of this plugin: name, version, options, and how an instance is made.
#include "driver.h"

#include <gantry/plugin.hpp>

static const gantry_option kElement = gantry::option_string("", nullptr, "");
static const gantry_option kOptions[] = {
    gantry::option_list("mount_options", "[]", &kElement, "more options for every overlay mount")};

GANTRY_STORAGE_PLUGIN("@NAME@", PLUGIN_VERSION, "layers as directories under overlayfs", kOptions,
                      [](const gantry::Environment &env, const gantry::Config &config, const gantry::Call &) {
                          return std::make_unique<@CLASS@>(env.root, config.strings("mount_options"));
                      });

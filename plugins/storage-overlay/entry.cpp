#include "plugins/storage-overlay/driver.h"
#include "plugins/storage-overlay/probe.h"

#include <gantry/plugin.hpp>

static constexpr gantry_option kMountOption = gantry::option_string("", nullptr, "one mount option");
static const gantry_option kOptions[] = {
    gantry::option_bool("volatile", "false",
                        "do not sync containers' writable layers: faster, but a power cut may tear them"),
    gantry::option_list("mount_options", "[]", &kMountOption, "further options of every overlay mount"),
};

GANTRY_STORAGE_PLUGIN_WITH_DIFF("overlay", GANTRY_VERSION, "layers stacked by overlayfs", kOptions,
                                [](const gantry::Environment &env, const gantry::Config &config,
                                   const gantry::Call &) {
                                    gantry::OverlayDriver::Settings settings;
                                    settings.volatile_mounts = config.boolean("volatile");
                                    settings.mount_options = config.strings("mount_options");
                                    return std::make_unique<gantry::OverlayDriver>(env.root,
                                                                                   std::move(settings));
                                });

GANTRY_PLUGIN_PROBE([](const gantry::Environment &env, const gantry::Config *, const gantry::Call &) {
    gantry::judge_overlay(env.root);
});

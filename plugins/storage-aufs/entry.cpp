#include "plugins/storage-aufs/driver.h"

#include <gantry/plugin.hpp>

static constexpr gantry_option kMountOption = gantry::option_string("", nullptr, "one mount option");
static const gantry_option kOptions[] = {
    gantry::option_bool("load_module", "false",
                        "have the kernel load its aufs module when it is not there yet"),
    gantry::option_list("mount_options", "[]", &kMountOption, "further options of every aufs mount"),
};

GANTRY_STORAGE_PLUGIN_WITH_DIFF("aufs", GANTRY_VERSION, "layers as branches of aufs", kOptions,
                                [](const gantry::Environment &env, const gantry::Config &config,
                                   const gantry::Call &) {
                                    gantry::AufsDriver::Settings settings;
                                    settings.load_module = config.boolean("load_module");
                                    settings.mount_options = config.strings("mount_options");
                                    return std::make_unique<gantry::AufsDriver>(env.root,
                                                                                std::move(settings));
                                });

GANTRY_PLUGIN_PROBE([](const gantry::Environment &env, const gantry::Config *config, const gantry::Call &) {
    gantry::AufsDriver::judge(env.root, config && config->boolean("load_module"));
});

#include "plugins/storage-btrfs/driver.h"
#include "plugins/storage-btrfs/subvolume.h"

#include <gantry/plugin.hpp>

static const gantry_option kOptions[] = {
    gantry::option_bool("quota", "false",
                        "turn on quotas of the file system, for --storage-opt size=: simple quotas where "
                        "the kernel has them (6.7), else full ones, which slow the whole file system down"),
};

GANTRY_STORAGE_PLUGIN_WITH_DIFF("btrfs", GANTRY_VERSION, "layers as snapshots of btrfs subvolumes", kOptions,
                                [](const gantry::Environment &env, const gantry::Config &config,
                                   const gantry::Call &call) {
                                    gantry::BtrfsDriver::Settings settings;
                                    settings.quota = config.boolean("quota");
                                    return std::make_unique<gantry::BtrfsDriver>(env.root, settings, call);
                                });

GANTRY_PLUGIN_PROBE([](const gantry::Environment &env, const gantry::Config *, const gantry::Call &) {
    gantry::btrfs::check_filesystem(env.root);
});

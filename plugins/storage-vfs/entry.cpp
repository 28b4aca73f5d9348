#include "plugins/storage-vfs/driver.h"

#include <gantry/plugin.hpp>

#include <span>

GANTRY_STORAGE_PLUGIN("vfs", GANTRY_VERSION, "layers as complete copies, for any file system",
                      std::span<const gantry_option>{},
                      [](const gantry::Environment &env, const gantry::Config &, const gantry::Call &) {
                          return std::make_unique<gantry::VfsDriver>(env.root);
                      });

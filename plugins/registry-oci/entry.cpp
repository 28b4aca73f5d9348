// The plugin's one exported symbol.
#include "oci_driver.h"

#include <gantry/plugin.hpp>

GANTRY_REGISTRY_PLUGIN("oci", GANTRY_VERSION, "OCI and Docker registries over HTTPS, with mirrors",
                       gantry::oci::kSchema,
                       [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                           return std::make_unique<gantry::oci::OciDriver>(gantry::oci::read_options(config));
                       });

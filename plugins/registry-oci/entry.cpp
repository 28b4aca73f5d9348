// The plugin's one exported symbol. The health of endpoints is one value in the plugin's key-value store.
#include "oci_driver.h"

#include <gantry/plugin.hpp>

namespace {

const char *const kHealthKey = "health/1";

gantry::oci::HealthStore host_store() {
    if (!gantry::plugin_host()) return {};
    return {[](const gantry::Call &call) { return gantry::plugin_host().get(call, kHealthKey).value_or(""); },
            [](const gantry::Call &call, const std::string &text) {
                gantry::Host::Write write;
                write.key = kHealthKey;
                write.value = text;
                gantry::plugin_host().apply(call, {write});
            }};
}

} // namespace

GANTRY_REGISTRY_PLUGIN("oci", GANTRY_VERSION, "OCI and Docker registries over HTTPS, with mirrors",
                       gantry::oci::kSchema,
                       [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                           return std::make_unique<gantry::oci::OciDriver>(gantry::oci::read_options(config),
                                                                           host_store());
                       });

#include "driver.h"

#include <gantry/plugin.hpp>

static const gantry_option kElement = gantry::option_string("", nullptr, "");
static const gantry_option kOptions[] = {
    gantry::option_list("sources", "[]", &kElement, "directories or file:// URLs, tried in this order"),
    gantry::option_list("registries", "[]", &kElement, "only references of these registries; empty: of all")};

GANTRY_REGISTRY_PLUGIN("layout", "1.0", "images from OCI layout directories, for sites without a registry",
                       kOptions,
                       [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                           return std::make_unique<LayoutDriver>(config.strings("sources"),
                                                                 config.strings("registries"));
                       });

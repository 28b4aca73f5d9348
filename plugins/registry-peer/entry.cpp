// The plugin's one exported symbol.
#include "driver.h"
#include "secret.h"

#include <gantry/plugin.hpp>

namespace {

using namespace gantry;

GANTRY_PLUGIN_PROBE([](const Environment &, const Config *config, const Call &) {
    if (!config || config->string("secret_file").empty())
        throw Error(ErrorClass::kFailedPrecondition, "registry.peer.secret_file is not set");
    try {
        peer::read_key(config->string("secret_file"));
    } catch (const Error &error) {
        throw Error(ErrorClass::kFailedPrecondition, error.message(), error.hint());
    }
});

} // namespace

GANTRY_REGISTRY_PLUGIN("peer", GANTRY_VERSION, "blobs from and for other gantry engines of the site",
                       peer::kSchema, [](const Environment &, const Config &config, const Call &) {
                           const Host host = plugin_host();
                           return std::make_unique<peer::PeerDriver>(
                               peer::read_options(config),
                               peer::PeerDriver::Services{
                                   [host](const std::string &digest, uint64_t &size) {
                                       const detail::SubCall call(nullptr, 10'000'000'000);
                                       return host.open_blob(Call(call.raw()), digest, size);
                                   },
                                   [host](int32_t level, const std::string &text) { host.log(level, text); },
                                   [host](const char *name, int64_t more) { host.count(name, more); }});
                       });

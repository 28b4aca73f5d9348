#include "options.h"

namespace gantry::peer {
namespace {

constexpr gantry_option kText = option_string("", nullptr, "");

constexpr gantry_option bounded(gantry_option option, int64_t min, int64_t max) {
    option.min = min;
    option.max = max;
    return option;
}

} // namespace

const gantry_option kSchema[kSchemaSize] = {
    option_string("listen", "\"\"", "ADDRESS:PORT at which this engine's blobs are served; empty: nowhere"),
    option_list("peers", "[]", &kText, "HOST:PORT of the engines that are asked for blobs"),
    option_string("secret_file", "\"\"",
                  "file with what all engines of the site know and nobody else: at least 32 bytes, readable "
                  "by its owner alone"),
    option_list("registries", "[]", &kText, "only references of these registries; empty: of all"),
    option_int("max_connections", "32", 1, 1024, "peers served at once; more are turned away"),
    option_size("bandwidth", "\"0\"", "bytes per second given to all peers together; 0: no limit"),
    bounded(option_duration("connect_timeout", "\"500ms\"", "longest wait for a peer's connection"),
            1'000'000, 60'000'000'000),
    bounded(option_duration("stall_timeout", "\"10s\"", "a peer without a byte for this long is given up"),
            10'000'000, 3600'000'000'000),
};

Options read_options(const Config &config) {
    Options out;
    out.listen = config.string("listen");
    out.peers = config.strings("peers");
    out.secret_file = config.string("secret_file");
    out.registries = config.strings("registries");
    out.max_connections = static_cast<uint32_t>(config.integer("max_connections"));
    out.bandwidth = static_cast<uint64_t>(config.size("bandwidth"));
    out.connect_timeout_ns = config.duration_ns("connect_timeout");
    out.stall_timeout_ns = config.duration_ns("stall_timeout");
    return out;
}

} // namespace gantry::peer

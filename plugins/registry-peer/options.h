// Keys of [registry.peer].
#pragma once

#include <gantry/value.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace gantry::peer {

struct Options {
    std::string listen;             // "10.0.0.1:7420"; "": serve nobody
    std::vector<std::string> peers; // "host:port"
    std::string secret_file;
    std::vector<std::string> registries; // "": of all
    uint32_t max_connections = 32;
    uint64_t bandwidth = 0; // bytes per second given to all peers together; 0: no limit
    int64_t connect_timeout_ns = 500'000'000;
    int64_t stall_timeout_ns = 10'000'000'000;
};

constexpr size_t kSchemaSize = 8;
extern const gantry_option kSchema[kSchemaSize];
Options read_options(const Config &config);

} // namespace gantry::peer

// [registry.oci] as plain structs, and the option schema that the core validates it against.
#pragma once

#include <gantry/value.hpp>

#include <map>
#include <string>
#include <vector>

namespace gantry::oci {

struct MirrorOptions {
    std::string url;
    bool resolve_tags = true; // may say what a tag means
    std::string ca_file, username, password;
    bool skip_verify = false;
};

struct HostOptions {
    std::vector<MirrorOptions> mirrors;
    bool plain_http = false;
    bool skip_verify = false;
    std::string ca_file, client_cert, client_key;
    std::string url; // instead of https://<host>
};

struct Options {
    int64_t connect_timeout_ns = 10'000'000'000;
    int64_t stall_timeout_ns = 30'000'000'000;
    std::string user_agent = "gantry/" GANTRY_VERSION;
    std::map<std::string, HostOptions> hosts;
};

Options read_options(const Config &config);

constexpr size_t kSchemaSize = 4;
extern const gantry_option kSchema[kSchemaSize];

} // namespace gantry::oci

// [registry.oci] as plain structs, and the option schema that the core validates it against.
#pragma once

#include <gantry/value.hpp>

#include <map>
#include <string>
#include <vector>

namespace gantry::oci {

/// What one endpoint may be asked for.
struct Rights {
    bool pull = true;         // bytes by digest
    bool resolve_tags = true; // say what a tag means
    bool push = true;
};

/// How one endpoint is reached and who we are there.
struct Access {
    std::string username, password, password_file;
    std::string ca_file, client_cert, client_key;
    bool skip_verify = false;
    std::string proxy;                 // "": as configured above it, "none": direct
    std::vector<std::string> no_proxy; // with `proxy` of the same table
};

struct MirrorOptions {
    std::string url;
    std::string prefix; // before the repository's name, "dockerhub/"
    bool ns = false;    // append ?ns=<registry>
    bool blocked = false;
    Rights rights{true, true, false};
    Access access;
};

struct HostOptions {
    std::vector<MirrorOptions> mirrors;
    bool plain_http = false;
    std::string url;        // instead of https://<host>
    std::string search_url; // of a search service like Docker Hub's; "" for the catalogue
    Rights rights;          // of the registry itself
    Access access;
    bool measured = false;      // choice = "measured"
    bool spread_origin = false; // the registry itself counts as one of its mirrors
    bool blocked = false;
    std::vector<std::string> blocked_repositories; // globs
};

struct Options {
    int64_t connect_timeout_ns = 10'000'000'000;
    int64_t stall_timeout_ns = 30'000'000'000;
    uint64_t upload_chunk = 32 << 20; // bytes; below the 100 MB that common front ends let pass
    std::string user_agent = "gantry/" GANTRY_VERSION;
    std::string auth_file, certs_dir;
    std::string proxy; // "": the environment's, "none": direct
    std::vector<std::string> no_proxy;
    bool http2 = true;
    uint64_t min_speed = 16 << 10; // bytes per second; 0: as slow as they like
    int64_t min_speed_window_ns = 10'000'000'000;
    int64_t rest_ns = 5'000'000'000;
    int64_t max_rest_ns = 600'000'000'000;
    int64_t max_wait_ns = 60'000'000'000;
    std::vector<std::string> blocked_repositories; // globs over registry/repository
    std::map<std::string, HostOptions> hosts;      // by name or pattern, lower case
};

/// Throws kInvalidArgument for what the schema cannot judge (URLs, patterns).
Options read_options(const Config &config);

constexpr size_t kSchemaSize = 16;
extern const gantry_option kSchema[kSchemaSize];

} // namespace gantry::oci

// Which endpoints a registry has, by the configuration alone: its mirrors, then the registry itself, each
// with its rights, its credentials and its way through TLS and proxies.
//
// The table for a registry is the most specific one: its exact name ("host:port" as in the reference),
// then "*.domain" (the longest; any port), then "*". Tables are not merged. A blocked name without a port
// is blocked on all ports that have no table of their own.
#pragma once

#include "http.h"
#include "options.h"

#include <string>
#include <string_view>
#include <vector>

namespace gantry::oci {

struct Endpoint {
    std::string url;      // base: scheme://host[:port][/path]
    std::string registry; // whose images it serves, as in the reference
    bool mirror = false;
    bool blocked = false; // configured, never asked
    Rights rights;
    std::string prefix; // "" or "dockerhub/"
    bool ns = false;
    bool http_possible = false; // loopback: plain http when https does not answer
    TlsSettings tls;
    ProxySettings proxy;
    std::string username, password, password_file; // configured for this endpoint
    std::string reason;

    /// "/v2/<prefix><repository><suffix>", with ?ns= where wanted. `suffix` as in "/manifests/latest".
    std::string path(const std::string &repository, const std::string &suffix) const;
    /// "repository:<prefix><repository>:<actions>".
    std::string scope(const std::string &repository, const std::string &actions = "pull") const;
};

/// `*` stands for any text, slashes too.
bool glob_matches(std::string_view pattern, std::string_view text);
/// "host:port" of a URL, lower case; without a port when it is the scheme's.
std::string host_of(const std::string &url);

/// Immutable; thread-safe.
class EndpointTable {
  public:
    explicit EndpointTable(const Options &options) : options_(options) {}

    /// Mirrors in their order, then the registry itself. Reads certs_dir.
    std::vector<Endpoint> list(const std::string &registry) const;
    /// Throws kPermissionDenied for what is blocked: "<doing>: blocked by ...".
    void check_allowed(const std::string &doing, const std::string &registry,
                       const std::string &repository) const;
    /// The table that counts for a registry; defaults where there is none. `name` is its key or "".
    const HostOptions &host(const std::string &registry, std::string *name = nullptr) const;

  private:
    TlsSettings tls_of(const Access &access, const std::string &url) const;
    ProxySettings proxy_of(const Access &host, const Access *mirror) const;

    const Options &options_;
};

} // namespace gantry::oci

// Proxies: from the configuration, or from the environment as curl and Go read it.
#pragma once

#include <string>
#include <vector>

namespace gantry::oci {

/// Which proxy an endpoint is reached through.
struct ProxySettings {
    bool from_environment = true;
    std::string url;           // "": direct, unless from_environment
    std::string no_proxy;      // as libcurl wants it: "a.example,.b.example,10.0.0.0/8"
    bool for_loopback = false; // named for this host: also when it is on this machine
};

/// `proxy` as configured: "" (the environment's), "none", or a URL (http:// when it has no scheme).
ProxySettings proxy_settings(const std::string &proxy, const std::vector<std::string> &no_proxy,
                             bool for_loopback);

/// What libcurl is told for one URL; "" is direct.
struct ProxyChoice {
    std::string url, no_proxy;
};
using GetEnv = const char *(*)(const char *);
/// Environment: https_proxy, http_proxy, all_proxy and no_proxy, each before its upper-case form.
ProxyChoice proxy_for(const ProxySettings &settings, const std::string &url, GetEnv environment);

} // namespace gantry::oci

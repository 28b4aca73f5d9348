// libcurl reads the environment itself, but not HTTP_PROXY, which a CGI program may get from a request.
// The engine is none, and administrators set it.
#include "proxy.h"

#include "http.h"

namespace gantry::oci {
namespace {

std::string no_proxy_list(const std::vector<std::string> &hosts) {
    std::string out;
    for (const std::string &host : hosts) {
        if (!out.empty()) out += ',';
        out += host.starts_with("*.") ? host.substr(1) : host;
    }
    return out;
}

} // namespace

ProxySettings proxy_settings(const std::string &proxy, const std::vector<std::string> &no_proxy,
                             bool for_loopback) {
    ProxySettings out;
    if (proxy.empty()) return out;
    out.from_environment = false;
    if (proxy == "none") return out;
    out.url = proxy;
    out.no_proxy = no_proxy_list(no_proxy);
    out.for_loopback = for_loopback;
    return out;
}

ProxyChoice proxy_for(const ProxySettings &settings, const std::string &url, GetEnv environment) {
    const std::string origin = origin_of(url);
    // A proxy for the world is not meant for what runs on this machine.
    if (!settings.for_loopback && is_loopback_host(std::string_view(origin).substr(origin.find("://") + 3)))
        return {};
    if (!settings.from_environment) return {settings.url, settings.no_proxy};
    auto first = [&](std::initializer_list<const char *> names) {
        for (const char *name : names)
            if (const char *value = environment(name); value && *value) return std::string(value);
        return std::string();
    };
    ProxyChoice out;
    out.url = origin.starts_with("https://") ? first({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"})
                                             : first({"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"});
    if (!out.url.empty()) out.no_proxy = first({"no_proxy", "NO_PROXY"});
    return out;
}

} // namespace gantry::oci

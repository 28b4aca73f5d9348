// Tables are looked up by name at each call and not expanded before: a wildcard stands for names that
// nobody has listed.
#include "endpoints.h"

#include "certs.h"

#include <algorithm>

namespace gantry::oci {
namespace {

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return text;
}

/// "host" of "host:port" and "[::1]:port"; the text itself when it has no port.
std::string without_port(const std::string &name) {
    const size_t colon = name.rfind(':');
    if (colon == std::string::npos || name.find(']', colon) != std::string::npos) return name;
    return name.find(':') == colon || name[0] == '[' ? name.substr(0, colon) : name;
}

std::string table_name(const std::string &key) { return "[registry.oci.hosts.\"" + key + "\"]"; }

} // namespace

std::string Endpoint::path(const std::string &repository, const std::string &suffix) const {
    std::string out = "/v2/" + prefix + repository + suffix;
    if (ns) out += (out.find('?') == std::string::npos ? "?ns=" : "&ns=") + escape_query(registry);
    return out;
}

std::string Endpoint::scope(const std::string &repository, const std::string &actions) const {
    return "repository:" + prefix + repository + ":" + actions;
}

bool glob_matches(std::string_view pattern, std::string_view text) {
    // Linear but for backtracking to the last star, which is enough for any pattern.
    size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
    while (t < text.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            mark = t;
        } else if (p < pattern.size() && pattern[p] == text[t]) {
            ++p, ++t;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            t = ++mark;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*')
        ++p;
    return p == pattern.size();
}

std::string host_of(const std::string &url) {
    const std::string origin = origin_of(url); // scheme://host:port
    std::string out = origin.substr(origin.find("://") + 3);
    if (origin.starts_with("https://") && out.ends_with(":443")) out.resize(out.size() - 4);
    if (origin.starts_with("http://") && out.ends_with(":80")) out.resize(out.size() - 3);
    return out;
}

const HostOptions &EndpointTable::host(const std::string &registry, std::string *name) const {
    static const HostOptions kNone;
    const std::string wanted = lower(registry);
    auto found = options_.hosts.find(wanted);
    const std::string host = without_port(wanted);
    for (size_t dot = host.find('.'); found == options_.hosts.end() && dot != std::string::npos;
         dot = host.find('.', dot + 1)) // from the longest domain to the shortest
        found = options_.hosts.find("*" + host.substr(dot));
    if (found == options_.hosts.end()) found = options_.hosts.find("*");
    if (name) *name = found == options_.hosts.end() ? "" : found->first;
    return found == options_.hosts.end() ? kNone : found->second;
}

void EndpointTable::check_allowed(const std::string &doing, const std::string &registry,
                                  const std::string &repository) const {
    auto refuse = [&](const std::string &by) {
        throw Error(ErrorClass::kPermissionDenied, doing + ": blocked by " + by,
                    "ask who administers this engine, or change that setting");
    };
    std::string name;
    const HostOptions &table = host(registry, &name);
    if (table.blocked) refuse(table_name(name) + " blocked = true");
    const std::string wanted = lower(registry);
    const std::string plain = without_port(wanted);
    if (name != wanted) // another port of a blocked name is no way around it
        if (const auto bare = options_.hosts.find(plain);
            bare != options_.hosts.end() && bare->second.blocked)
            refuse(table_name(plain) + " blocked = true");
    for (const std::string &pattern : table.blocked_repositories)
        if (glob_matches(pattern, repository))
            refuse(table_name(name) + " blocked_repositories \"" + pattern + "\"");
    for (const std::string &pattern : options_.blocked_repositories)
        if (glob_matches(pattern, wanted + "/" + repository) ||
            glob_matches(pattern, plain + "/" + repository))
            refuse("[registry.oci] blocked_repositories \"" + pattern + "\"");
}

TlsSettings EndpointTable::tls_of(const Access &access, const std::string &url) const {
    TlsSettings out;
    out.ca_file = access.ca_file;
    out.client_cert = access.client_cert;
    out.client_key = access.client_key;
    out.skip_verify = access.skip_verify;
    if (!options_.certs_dir.empty()) add_host_certs(options_.certs_dir, host_of(url), out);
    return out;
}

ProxySettings EndpointTable::proxy_of(const Access &host, const Access *mirror) const {
    if (mirror && !mirror->proxy.empty()) return proxy_settings(mirror->proxy, mirror->no_proxy, true);
    if (!host.proxy.empty()) return proxy_settings(host.proxy, host.no_proxy, true);
    return proxy_settings(options_.proxy, options_.no_proxy, false);
}

std::vector<Endpoint> EndpointTable::list(const std::string &registry) const {
    std::vector<Endpoint> out;
    std::string name;
    const HostOptions &host = this->host(registry, &name);
    const std::string table = table_name(name);
    for (size_t i = 0; i < host.mirrors.size(); ++i) {
        const MirrorOptions &m = host.mirrors[i];
        Endpoint e;
        e.url = m.url;
        e.registry = registry;
        e.mirror = true;
        e.blocked = m.blocked;
        e.rights = m.rights;
        e.prefix = m.prefix;
        e.ns = m.ns;
        e.tls = tls_of(m.access, m.url);
        e.proxy = proxy_of(host.access, &m.access);
        e.username = m.access.username;
        e.password = m.access.password;
        e.password_file = m.access.password_file;
        e.reason = table + " mirrors[" + std::to_string(i) + "]";
        out.push_back(std::move(e));
    }
    Endpoint origin;
    origin.registry = registry;
    origin.rights = host.rights;
    origin.username = host.access.username;
    origin.password = host.access.password;
    origin.password_file = host.access.password_file;
    origin.reason = name.empty() || name == "*" ? "the registry named in the reference" : table;
    if (!host.url.empty()) {
        origin.url = host.url;
    } else if (registry == "docker.io") {
        origin.url = "https://registry-1.docker.io";
    } else {
        origin.url = (host.plain_http ? "http://" : "https://") + registry;
    }
    origin.tls = tls_of(host.access, origin.url);
    origin.proxy = proxy_of(host.access, nullptr);
    // Who could answer in its place is root here already; Docker trusts loopback alike. Certificates that are
    // configured for it say that it speaks https, and whom to believe.
    const TlsSettings &tls = origin.tls;
    if (host.url.empty() && !host.plain_http && is_loopback_host(registry) && tls.ca_file.empty() &&
        tls.ca_pem.empty() && tls.client_cert.empty())
        origin.http_possible = origin.tls.skip_verify = true;
    out.push_back(std::move(origin));
    return out;
}

} // namespace gantry::oci

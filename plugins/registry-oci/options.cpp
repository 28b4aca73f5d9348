// Reads the validated [registry.oci] table. Keys without a value fall back to the struct's default, so
// that tests and older cores may leave keys out.
#include "options.h"

#include <algorithm>

namespace gantry::oci {
namespace {

constexpr gantry_option kWord = make_option(GANTRY_TYPE_STRING, "", nullptr, "text");

constexpr gantry_option kMirrorKeys[] = {
    make_option(GANTRY_TYPE_STRING, "url", nullptr, "address of the mirror, https://host[:port][/path]",
                GANTRY_OPTION_REQUIRED),
    option_bool("resolve_tags", "true", "may this mirror say what a tag means"),
    option_bool("pull", "true", "may manifests and blobs come from here, by digest"),
    option_bool("push", "false", "may images be pushed here"),
    option_string("prefix", "\"\"", "put before the repository's name on this mirror, such as dockerhub/"),
    option_bool("ns", "false", "append ?ns=REGISTRY to requests, as pull-through caches expect it"),
    option_bool("blocked", "false", "never ask this mirror"),
    option_string("username", "\"\"", "user name for this mirror alone"),
    option_string("password", "\"\"", "password for this mirror alone", nullptr, GANTRY_OPTION_SECRET),
    option_string("password_file", "\"\"", "file with the password, instead of it"),
    option_string("ca_file", "\"\"", "PEM file of additional trusted authorities"),
    option_string("client_cert", "\"\"", "PEM file of the client certificate"),
    option_string("client_key", "\"\"", "PEM file of the client certificate's key"),
    option_bool("skip_verify", "false", "accept any certificate (dangerous)"),
    option_string("proxy", "\"\"", "proxy for this mirror, none to go directly; empty: the registry's"),
};
constexpr gantry_option kMirror = option_table("", kMirrorKeys, std::size(kMirrorKeys), "one mirror", "url");

constexpr const char *kChoices[] = {"ordered", "measured", nullptr};
constexpr gantry_option kHostKeys[] = {
    option_list("mirrors", "[]", &kMirror, "asked in this order before the registry itself"),
    option_string("choice", "\"ordered\"", "order of the mirrors: as written, or the fastest first",
                  kChoices),
    option_bool("spread_origin", "false", "count the registry itself as one of its mirrors"),
    option_bool("blocked", "false", "refuse everything of this registry"),
    option_list("blocked_repositories", "[]", &kWord, "repositories to refuse, such as evil/*"),
    option_bool("pull", "true", "may manifests and blobs come from the registry itself, by digest"),
    option_bool("resolve_tags", "true", "may the registry itself say what a tag means"),
    option_bool("push", "true", "may images be pushed to the registry itself"),
    option_bool("plain_http", "false", "speak http instead of https"),
    option_string("username", "\"\"", "user name for the registry itself, when a request brings none"),
    option_string("password", "\"\"", "its password", nullptr, GANTRY_OPTION_SECRET),
    option_string("password_file", "\"\"", "file with the password, instead of it"),
    option_string("ca_file", "\"\"", "PEM file of additional trusted authorities"),
    option_string("client_cert", "\"\"", "PEM file of the client certificate"),
    option_string("client_key", "\"\"", "PEM file of the client certificate's key"),
    option_bool("skip_verify", "false", "accept any certificate (dangerous)"),
    option_string("url", "\"\"", "address of the registry when it is not https://<host>"),
    option_string(
        "search_url", "\"\"",
        "address of a search service like Docker Hub's (which docker.io has by default); without one "
        "the registry's catalogue is searched"),
    option_string("proxy", "\"\"", "proxy for this registry and its mirrors, none to go directly"),
    option_list("no_proxy", "[]", &kWord, "hosts, domains and networks that are reached without `proxy`"),
};
constexpr gantry_option kHost = option_table("", kHostKeys, std::size(kHostKeys), "one registry");

constexpr gantry_option bounded(gantry_option option, int64_t min, int64_t max) {
    option.min = min;
    option.max = max;
    return option;
}
constexpr int64_t kSecond = 1'000'000'000;

bool flag(const Config &c, const char *key, bool otherwise) {
    return c.has(key) ? c.boolean(key) : otherwise;
}
std::string text(const Config &c, const char *key) { return c.has(key) ? c.string(key) : ""; }
std::vector<std::string> words(const Config &c, const char *key) {
    return c.has(key) ? c.strings(key) : std::vector<std::string>();
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return text;
}

std::string base_url(std::string url) {
    while (!url.empty() && url.back() == '/')
        url.pop_back();
    if (url.find("://") == std::string::npos) url = "https://" + url;
    if (!url.starts_with("https://") && !url.starts_with("http://"))
        throw Error(ErrorClass::kInvalidArgument,
                    "configure registry endpoint " + url + ": only http and https are possible");
    if (url.find('@') != std::string::npos || url.find('?') != std::string::npos)
        throw Error(ErrorClass::kInvalidArgument,
                    "configure registry endpoint: user names and queries do not belong into the URL",
                    "use the keys username and password");
    if (url.ends_with("/v2")) url.resize(url.size() - 3); // the driver appends it
    return url;
}

/// "" or "a/b/".
std::string prefix_of(std::string prefix) {
    while (!prefix.empty() && prefix.front() == '/')
        prefix.erase(0, 1);
    while (!prefix.empty() && prefix.back() == '/')
        prefix.pop_back();
    const bool good = prefix.find("..") == std::string::npos && prefix.find("//") == std::string::npos &&
                      std::all_of(prefix.begin(), prefix.end(), [](char c) {
                          return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                                 c == '.' || c == '_' || c == '-' || c == '/';
                      });
    if (!good)
        throw Error(ErrorClass::kInvalidArgument,
                    "configure mirror prefix \"" + prefix + "\": not the beginning of a repository's name");
    return prefix.empty() ? prefix : prefix + "/";
}

Access read_access(const Config &c) {
    Access a;
    a.username = text(c, "username");
    a.password = text(c, "password");
    a.password_file = text(c, "password_file");
    a.ca_file = text(c, "ca_file");
    a.client_cert = text(c, "client_cert");
    a.client_key = text(c, "client_key");
    a.skip_verify = flag(c, "skip_verify", false);
    a.proxy = text(c, "proxy");
    a.no_proxy = words(c, "no_proxy");
    if (!a.password.empty() && !a.password_file.empty())
        throw Error(ErrorClass::kInvalidArgument,
                    "configure registry endpoint: password and password_file are both given");
    return a;
}

HostOptions read_host(const std::string &name, const Config &h) {
    HostOptions host;
    host.plain_http = flag(h, "plain_http", false);
    host.rights = {flag(h, "pull", true), flag(h, "resolve_tags", true), flag(h, "push", true)};
    host.access = read_access(h);
    host.measured = text(h, "choice") == "measured";
    host.spread_origin = flag(h, "spread_origin", false);
    host.blocked = flag(h, "blocked", false);
    host.blocked_repositories = words(h, "blocked_repositories");
    if (auto url = text(h, "url"); !url.empty()) host.url = base_url(url);
    if (auto url = text(h, "search_url"); !url.empty()) host.search_url = base_url(url);
    if (name.find('*') != std::string::npos) {
        if (name != "*" && (!name.starts_with("*.") || name.find('*', 1) != std::string::npos))
            throw Error(ErrorClass::kInvalidArgument,
                        "configure registry hosts.\"" + name + "\": a pattern is \"*\" or \"*.domain\"");
        // One address, or one password, for whatever anybody may name.
        if (!host.url.empty())
            throw Error(ErrorClass::kInvalidArgument,
                        "configure registry hosts.\"" + name + "\": url is not for a pattern",
                        "use a mirror with ns = true, and pull = false for the registry itself");
        if (name == "*" && (!host.access.username.empty() || !host.access.client_cert.empty()))
            throw Error(ErrorClass::kInvalidArgument,
                        "configure registry hosts.\"*\": credentials are not for every registry there is",
                        "give them to a mirror or to a named host");
    }
    if (!h.has("mirrors")) return host;
    const Config list = h.child("mirrors");
    for (uint32_t k = 0; k < list.count(); ++k) {
        const Config m = list.item(k);
        MirrorOptions mirror;
        mirror.url = base_url(m.string("url"));
        mirror.prefix = prefix_of(text(m, "prefix"));
        mirror.ns = flag(m, "ns", false);
        mirror.blocked = flag(m, "blocked", false);
        mirror.rights = {flag(m, "pull", true), flag(m, "resolve_tags", true), flag(m, "push", false)};
        mirror.access = read_access(m);
        host.mirrors.push_back(std::move(mirror));
    }
    return host;
}

} // namespace

const gantry_option kSchema[kSchemaSize] = {
    option_duration("connect_timeout", "\"10s\"", "longest wait for a connection"),
    option_duration("stall_timeout", "\"30s\"", "a transfer without a byte for this long is given up"),
    option_string("user_agent", "\"gantry/" GANTRY_VERSION "\"", "User-Agent of all requests"),
    option_string("auth_file", "\"\"", "config.json with credentials by host, for requests that bring none"),
    option_string("certs_dir", "\"\"", "directory like /etc/docker/certs.d: HOST/*.crt, *.cert and *.key"),
    option_string("proxy", "\"\"", "proxy URL, none to go directly; empty: from the environment"),
    option_list("no_proxy", "[]", &kWord, "hosts, domains and networks that are reached without `proxy`"),
    option_bool("http2", "true", "speak HTTP/2 where it is offered"),
    option_size(
        "min_speed", "\"16KiB\"",
        "bytes per second below which a transfer goes on elsewhere, where there is a choice; 0: never"),
    bounded(option_duration("min_speed_window", "\"10s\"", "time over which min_speed is judged"), kSecond,
            3600 * kSecond),
    bounded(option_duration("rest", "\"5s\"", "how long an endpoint rests after its first failure"),
            kSecond / 1000, 3600 * kSecond),
    bounded(option_duration("max_rest", "\"10m\"", "longest rest, reached by doubling"), kSecond / 1000,
            24 * 3600 * kSecond),
    bounded(option_duration("max_wait", "\"60s\"",
                            "longest wait for endpoints that all ask to be left alone (Retry-After)"),
            0, 3600 * kSecond),
    option_list("blocked_repositories", "[]", &kWord, "images to refuse, such as *.example.com/evil/*"),
    option_size("upload_chunk", "\"32MiB\"", "largest part of a layer that one request of a push carries"),
    option_map("hosts", &kHost, "settings by registry: mirrors, certificates, addresses"),
};

Options read_options(const Config &config) {
    Options out;
    const auto duration = [&](const char *key, int64_t &value) {
        if (config.has(key)) value = config.duration_ns(key);
    };
    duration("connect_timeout", out.connect_timeout_ns);
    duration("stall_timeout", out.stall_timeout_ns);
    duration("min_speed_window", out.min_speed_window_ns);
    duration("rest", out.rest_ns);
    duration("max_rest", out.max_rest_ns);
    duration("max_wait", out.max_wait_ns);
    if (config.has("user_agent")) out.user_agent = config.string("user_agent");
    out.auth_file = text(config, "auth_file");
    out.certs_dir = text(config, "certs_dir");
    out.proxy = text(config, "proxy");
    out.no_proxy = words(config, "no_proxy");
    out.http2 = flag(config, "http2", true);
    if (config.has("min_speed")) out.min_speed = static_cast<uint64_t>(config.size("min_speed"));
    out.blocked_repositories = words(config, "blocked_repositories");
    if (config.has("upload_chunk"))
        out.upload_chunk = static_cast<uint64_t>(
            std::clamp<int64_t>(config.size("upload_chunk"), 64 << 10, int64_t(4) << 30));
    if (!config.has("hosts")) return out;
    const Config hosts = config.child("hosts");
    for (uint32_t i = 0; i < hosts.count(); ++i) {
        const std::string name = lower(hosts.key(i));
        out.hosts.emplace(name, read_host(name, hosts.item(i)));
    }
    return out;
}

} // namespace gantry::oci

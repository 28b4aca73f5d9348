// Reads the validated [registry.oci] table. Keys without a value fall back to the struct's default, so
// that tests and older cores may leave keys out.
#include "options.h"

namespace gantry::oci {
namespace {

constexpr gantry_option kMirrorKeys[] = {
    make_option(GANTRY_TYPE_STRING, "url", nullptr, "address of the mirror, https://host[:port][/path]",
                GANTRY_OPTION_REQUIRED),
    option_bool("resolve_tags", "true", "may this mirror say what a tag means"),
    option_string("ca_file", "\"\"", "PEM file of additional trusted authorities"),
    option_string("username", "\"\"", "user name for this mirror alone"),
    option_string("password", "\"\"", "password for this mirror alone", nullptr, GANTRY_OPTION_SECRET),
    option_bool("skip_verify", "false", "accept any certificate (dangerous)"),
};
constexpr gantry_option kMirror = option_table("", kMirrorKeys, std::size(kMirrorKeys), "one mirror", "url");
constexpr gantry_option kHostKeys[] = {
    option_list("mirrors", "[]", &kMirror, "tried in this order before the registry itself"),
    option_bool("plain_http", "false", "speak http instead of https"),
    option_string("ca_file", "\"\"", "PEM file of additional trusted authorities"),
    option_string("client_cert", "\"\"", "PEM file of the client certificate"),
    option_string("client_key", "\"\"", "PEM file of the client certificate's key"),
    option_bool("skip_verify", "false", "accept any certificate (dangerous)"),
    option_string("url", "\"\"", "address of the registry when it is not https://<host>"),
};
constexpr gantry_option kHost = option_table("", kHostKeys, std::size(kHostKeys), "one registry");

bool flag(const Config &c, const char *key, bool otherwise) {
    return c.has(key) ? c.boolean(key) : otherwise;
}
std::string text(const Config &c, const char *key) { return c.has(key) ? c.string(key) : ""; }

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
    return url;
}

} // namespace

const gantry_option kSchema[kSchemaSize] = {
    option_duration("connect_timeout", "\"10s\"", "longest wait for a connection"),
    option_duration("stall_timeout", "\"30s\"", "a transfer without a byte for this long is given up"),
    option_string("user_agent", "\"gantry/" GANTRY_VERSION "\"", "User-Agent of all requests"),
    option_map("hosts", &kHost, "settings by registry: mirrors, certificates, addresses"),
};

Options read_options(const Config &config) {
    Options out;
    if (config.has("connect_timeout")) out.connect_timeout_ns = config.duration_ns("connect_timeout");
    if (config.has("stall_timeout")) out.stall_timeout_ns = config.duration_ns("stall_timeout");
    if (config.has("user_agent")) out.user_agent = config.string("user_agent");
    if (!config.has("hosts")) return out;
    const Config hosts = config.child("hosts");
    for (uint32_t i = 0; i < hosts.count(); ++i) {
        const Config h = hosts.item(i);
        HostOptions host;
        host.plain_http = flag(h, "plain_http", false);
        host.skip_verify = flag(h, "skip_verify", false);
        host.ca_file = text(h, "ca_file");
        host.client_cert = text(h, "client_cert");
        host.client_key = text(h, "client_key");
        if (auto url = text(h, "url"); !url.empty()) host.url = base_url(url);
        if (h.has("mirrors")) {
            const Config list = h.child("mirrors");
            for (uint32_t k = 0; k < list.count(); ++k) {
                const Config m = list.item(k);
                MirrorOptions mirror;
                mirror.url = base_url(m.string("url"));
                mirror.resolve_tags = flag(m, "resolve_tags", true);
                mirror.ca_file = text(m, "ca_file");
                mirror.username = text(m, "username");
                mirror.password = text(m, "password");
                mirror.skip_verify = flag(m, "skip_verify", false);
                host.mirrors.push_back(std::move(mirror));
            }
        }
        out.hosts.emplace(hosts.key(i), std::move(host));
    }
    return out;
}

} // namespace gantry::oci
